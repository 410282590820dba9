"""Debian's PostgreSQL, MariaDB and Redis in a pod's network, on the ports that the chart's Services have."""

import os
import pwd
import shutil
import subprocess
import time
from pathlib import Path

from image.containers import Container, Pod


def as_user(user: str, *words: str) -> list[str]:
    """A command line of this machine as one of its users."""
    entry = pwd.getpwnam(user)
    drop = ["setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups"]
    return [*drop, "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", *words]


def binary(*names: str) -> str | None:
    """The first of these programs that is here, Debian's folders of PostgreSQL included."""
    folders = [str(p) for p in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    path = ":".join([*folders, "/usr/sbin", "/usr/bin"])
    return next((found for name in names if (found := shutil.which(name, path=path))), None)


def postgresql(pod: Pod, args: list[str], password: str, certificate: bytes, key: bytes) -> Container:
    """PostgreSQL as the image's entrypoint sets it up, with the chart's arguments and the certificate of its Secret.

    The key is root's and readable by the server's group, as the pod's volume has it.
    """
    folder = _folder(pod, "postgresql", "postgres")
    group = pwd.getpwnam("postgres").pw_gid
    for name, content in (("tls.crt", certificate), ("tls.key", key)):
        (folder / name).write_bytes(content)
        os.chown(folder / name, 0, group)
        (folder / name).chmod(0o640)
    (folder / "password").write_text(password)
    os.chown(folder / "password", pwd.getpwnam("postgres").pw_uid, group)
    words = [str(binary("initdb")), "-D", f"{folder}/data", "-U", "llmproxy", f"--pwfile={folder}/password"]
    words += ["--auth-host=scram-sha-256", "--auth-local=scram-sha-256"]
    subprocess.run(as_user("postgres", *words), check=True, capture_output=True)
    (folder / "data" / "pg_hba.conf").write_text("hostssl all all all scram-sha-256\nlocal all all trust\n")
    filled = [word.replace("/etc/postgresql/tls", str(folder)) for word in args]
    server = [str(binary("postgres")), "-D", f"{folder}/data", "-k", str(folder), "-h", "127.0.0.1", "-p", "5432"]
    container = pod.spawn(as_user("postgres", *server, *filled))
    until(pod, as_user("postgres", str(binary("pg_isready")), "-q", "-h", "127.0.0.1", "-p", "5432"), container)
    made = as_user("postgres", str(binary("createdb")), "-h", str(folder), "-U", "llmproxy", "llmproxy")
    subprocess.run(pod.inside(made), check=True, capture_output=True)
    return container


def mysql(pod: Pod, args: list[str], password: str) -> Container:
    """MariaDB in MySQL's place, with the chart's arguments and its user."""
    folder = _folder(pod, "mysql", "mysql")
    quoted = password.replace("\\", "\\\\").replace("'", "\\'")
    init = folder / "init.sql"
    init.write_text(
        f"CREATE DATABASE llmproxy;\nCREATE USER 'llmproxy'@'%' IDENTIFIED BY '{quoted}';\n"
        "GRANT ALL ON llmproxy.* TO 'llmproxy'@'%';\n"
    )
    init.chmod(0o644)
    words = [str(binary("mariadb-install-db", "mysql_install_db")), f"--datadir={folder}/data", "--no-defaults"]
    subprocess.run(as_user("mysql", words[0], words[2], words[1]), check=True, capture_output=True)
    server = [str(binary("mariadbd", "mysqld")), "--no-defaults", f"--datadir={folder}/data", f"--socket={folder}/s"]
    server += ["--bind-address=127.0.0.1", "--port=3306", "--skip-name-resolve", f"--init-file={init}"]
    return pod.spawn(as_user("mysql", *server, f"--pid-file={folder}/pid", *args))


def redis(pod: Pod) -> Container:
    """Redis without a file."""
    folder = _folder(pod, "redis", "nobody")
    words = [str(binary("redis-server")), "--port", "6379", "--save", "", "--dir", str(folder)]
    container = pod.spawn(as_user("nobody", *words))
    until(pod, ["/usr/bin/redis-cli", "-p", "6379", "ping"], container)
    return container


def until(pod: Pod, command: list[str], container: Container, limit_s: float = 60) -> None:
    """Run a probe until it succeeds."""
    deadline = time.monotonic() + limit_s
    while (done := subprocess.run(pod.inside(command), capture_output=True, text=True)).returncode != 0:
        assert container.process.poll() is None, container.printed()
        assert time.monotonic() < deadline, done.stderr + container.printed()
        time.sleep(0.2)


def _folder(pod: Pod, name: str, user: str) -> Path:
    """A folder that the server's user can reach: pytest's own are closed to others."""
    folder = Path("/run") / f"llm-proxy-{os.getpid()}-{name}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    entry = pwd.getpwnam(user)
    os.chown(folder, entry.pw_uid, entry.pw_gid)
    pod.folders.append(folder)
    return folder
