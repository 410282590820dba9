#!/bin/sh
# Starts what the container is for: a command of llm-proxy (server, dispatcher, admin, migrate up, …), or any other
# executable as it is (sh, python, flask).
#
# As root it hands the four folders to appuser and goes on as that user: a bind mount of another owner just works. As any
# other user it says what to do where a folder cannot be written.
#
# EXTRA_CA_CERTS names a PEM file with further certificate authorities (a private CA, a company's TLS proxy). They are
# trusted beside the public ones: both are written to one file, which REQUESTS_CA_BUNDLE and SSL_CERT_FILE name.
set -eu

app=/app
user=100
group=101
bundle=/tmp/llm-proxy.ca.pem

# The processes hold provider keys in memory: none of them leaves a core file.
ulimit -c 0

if [ "$(id -u)" = 0 ]; then
    for folder in "$app/data" "$app/logs" "$app/config" "$app/certs"; do
        # A read-only mount keeps its owner; whether that matters is found out below.
        [ ! -d "$folder" ] || find "$folder" ! -user "$user" -exec chown -h "$user:$group" {} + 2>/dev/null || :
    done
    exec setpriv --reuid "$user" --regid "$group" --clear-groups --no-new-privs "$0" "$@"
fi

if [ -n "${EXTRA_CA_CERTS:-}" ]; then
    if [ ! -r "$EXTRA_CA_CERTS" ]; then
        echo "llm-proxy: EXTRA_CA_CERTS=$EXTRA_CA_CERTS cannot be read by uid $(id -u)" >&2
        exit 1
    fi
    public=$(python -c 'import certifi; print(certifi.where())')
    { cat "$public"; echo; cat "$EXTRA_CA_CERTS"; } > "$bundle"
    export REQUESTS_CA_BUNDLE="$bundle" SSL_CERT_FILE="$bundle"
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
        # For the health check, which has to know what runs here. It may run under an init process. For this user
        # alone: a flag may hold a key.
        rm -f /tmp/llm-proxy.command
        (umask 077 && printf '%s\n' "$@" > /tmp/llm-proxy.command)
        ;;
esac

# `whoami` is a command of llm-proxy as well: the one of coreutils is /usr/bin/whoami.
if [ $# -gt 0 ] && [ "$1" != whoami ] && [ "${1#-}" = "$1" ] && command -v "$1" > /dev/null 2>&1; then
    exec "$@"
fi
exec llm-proxy "$@"
