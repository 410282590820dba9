#!/bin/sh
# Starts what the container is for: a command of llm-proxy (server, dispatcher, admin, migrate up, …), or any other
# executable as it is (sh, python, flask).
#
# As root it hands the four folders to appuser and goes on as that user: a bind mount of another owner just works. As any
# other user it says what to do where a folder cannot be written.
set -eu

app=/app
user=100
group=101

if [ "$(id -u)" = 0 ]; then
    for folder in "$app/data" "$app/logs" "$app/config" "$app/certs"; do
        # A read-only mount keeps its owner; whether that matters is found out below.
        [ ! -d "$folder" ] || find "$folder" ! -user "$user" -exec chown -h "$user:$group" {} + 2>/dev/null || :
    done
    exec setpriv --reuid "$user" --regid "$group" --clear-groups --no-new-privs "$0" "$@"
fi

writable() {
    if [ -d "$1" ] && [ ! -w "$1" ]; then
        echo "llm-proxy: $1 cannot be written by uid $(id -u); on the host run: chown -R $user:$group <the folder mounted there>" >&2
        exit 1
    fi
}

case "${1:-}" in
    server | dispatcher | admin | migrate | setup)
        writable "$app/data"
        case "${LOG_FILE:-}${AUDIT_LOG_FILE:-}${FILE_EVENT_LOG:-} $*" in
            *"$app/logs"*) writable "$app/logs" ;;
        esac
        # For the health check, which has to know what runs here. It may run under an init process.
        printf '%s\n' "$@" > /tmp/llm-proxy.command
        ;;
esac

if [ $# -gt 0 ] && [ "${1#-}" = "$1" ] && command -v "$1" > /dev/null 2>&1; then
    exec "$@"
fi
exec llm-proxy "$@"
