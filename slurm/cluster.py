#!/usr/bin/env python3
"""A Slurm of one's own on this machine: for development, for tests, and to try a suite before going to the cluster.

    eval "$(python slurm/cluster.py start)"     # nodes n1 and n2 with 4 CPUs and 2 pretended GPUs each
    sinfo; srun --gres=gpu:1 env | grep CUDA; python -m suites.run ... --launcher slurm --profile one_machine
    python slurm/cluster.py node down n1        # as when a node loses power; `node up n1` brings it back
    python slurm/cluster.py stop                # --clean forgets jobs and accounting too

It needs Debian's packages `slurmctld slurmd slurm-client munge slurmdbd mariadb-server-core`. Everything lies in one
folder (--root), listens on the loopback interface alone, and meets no Slurm or munge that the machine has otherwise.
"""

import argparse
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from getpass import getuser
from pathlib import Path

PACKAGES = "slurmctld slurmd slurm-client munge slurmdbd mariadb-server-core"
PROGRAMS = ("munged", "munge", "mariadbd", "slurmdbd", "slurmctld", "slurmd", "slurmstepd", "sbatch", "sacct", "sinfo")
# The daemons lie where users have no path to.
PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
SYSTEM_TABLES = [
    Path("/usr/share/mysql/mysql_system_tables.sql"),
    Path("/usr/share/mysql/mysql_system_tables_data.sql"),
]
# The name of a Unix socket may have 107 bytes, and the longest one here is ROOT/munge.sock with a suffix.
LONGEST_ROOT = 85
WAIT_SECONDS, STOP_SECONDS, POLL_SECONDS = 30.0, 10.0, 0.05

SLURM_CONF = """\
ClusterName=one-machine
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={port}
AuthType=auth/munge
CredType=cred/munge
# cred_expire is also how long a requeued job waits; 5 s is the least that Slurm takes.
AuthInfo=socket={root}/munge.sock,cred_expire=5
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool/%n
SlurmctldPidFile={root}/pid/slurmctld.own
SlurmdPidFile={root}/pid/%n.own
SlurmctldLogFile={root}/log/slurmctld.log
SlurmdLogFile={root}/log/%n.log
MailProg=/bin/true
# No control groups: works in a container, without root. Memory limits are not enforced.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=100
# The nodes may claim more CPUs than the machine has.
SlurmdParameters=config_overrides
GresTypes=gpu
MaxArraySize={max_array_size}
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
ReturnToService=2
JobRequeue=1
MinJobAge=3600
KillWait=5
SlurmdTimeout=10
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{preempt_signal}
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={dbd_port}
# The clients of slurmdbd do not look at AuthInfo.
AccountingStoragePass={root}/munge.sock
AccountingStorageTRES=gres/gpu
NodeName=n[1-{nodes}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first_port}-{last_port}] \\
    CPUs={cpus} RealMemory={memory} Gres=gpu:{gpus} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES GraceTime=20 MaxTime=INFINITE DefaultTime=5 PriorityTier=1 State=UP
PartitionName=high Nodes=ALL MaxTime=INFINITE DefaultTime=5 PriorityTier=10 PreemptMode=OFF State=UP
"""

GRES_CONF = "NodeName=n[1-{nodes}] Name=gpu File={root}/gpu/gpu[0-{last_gpu}]\n"

SLURMDBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={root}/munge.sock
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={dbd_port}
SlurmUser={user}
LogFile={root}/log/slurmdbd.log
PidFile={root}/pid/slurmdbd.own
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={sql_port}
StorageUser=root
StoragePass=none
StorageLoc=slurm_acct_db
CommitDelay=1
"""


class ClusterError(RuntimeError):
    """The cluster cannot be started or used; the message says why."""


@dataclass(frozen=True)
class Cluster:
    """The folder of a cluster, and what is in it."""

    root: Path

    @property
    def conf(self) -> Path:
        return self.root / "etc" / "slurm.conf"

    @property
    def socket(self) -> Path:
        return self.root / "munge.sock"

    @property
    def environment(self) -> dict[str, str]:
        """Environment of Slurm's commands."""
        return os.environ | {"SLURM_CONF": str(self.conf), "PATH": PATH}

    def pid_file(self, name: str) -> Path:
        return self.root / "pid" / name

    def pid(self, name: str) -> int | None:
        """Process of a daemon that runs."""
        try:
            pid = int(self.pid_file(name).read_text())
        except (FileNotFoundError, ValueError):
            return None
        return pid if self.owns(pid) else None

    def owns(self, pid: int) -> bool:
        """Whether a process lives and belongs to this cluster: its command line or environment names the folder."""
        command = read_bytes(pid, "cmdline")
        # A process that has ended and was not waited for has no command line any more.
        return bool(command) and f"{self.root}/".encode() in command + read_bytes(pid, "environ")

    def daemons(self) -> list[str]:
        """Names of the daemons that run."""
        names = sorted(path.name for path in self.root.glob("pid/*") if path.suffix != ".own")
        return [name for name in names if self.pid(name)]

    def spawn(self, name: str, *command: str) -> None:
        """Start a daemon in a session of its own and note its process."""
        with (self.root / "log" / f"{name}.out").open("ab") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self.environment,
                start_new_session=True,
            )
        self.pid_file(name).write_text(str(process.pid))

    def succeeds(self, *command: str) -> bool:
        return self.ask(*command) is not None

    def ask(self, *command: str) -> str | None:
        """Output of a command; None if it fails or hangs, as Slurm's do while a daemon is missing."""
        try:
            answer = subprocess.run(
                command, capture_output=True, text=True, env=self.environment, timeout=5, check=False
            )
        except subprocess.TimeoutExpired:
            return None
        return answer.stdout if answer.returncode == 0 else None

    def await_(self, what: str, ready: Callable[[], bool], seconds: float = WAIT_SECONDS) -> None:
        """Wait until something is ready."""
        end = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > end:
                raise ClusterError(f"{what} did not come up within {seconds:.0f} s; see {self.root / 'log'}")
            time.sleep(POLL_SECONDS)


def start(cluster: Cluster, options: argparse.Namespace) -> None:
    """Start all daemons and wait until the nodes take jobs; a cluster that runs already is left as it is."""
    check_programs()
    if len(os.fsencode(cluster.root)) > LONGEST_ROOT:
        raise ClusterError(f"--root {cluster.root}: longer than {LONGEST_ROOT} characters, too long for a Unix socket")
    if cluster.pid("slurmctld"):
        return
    began = time.monotonic()
    write_configuration(cluster, options)
    try:
        start_daemons(cluster, options)
    except BaseException:
        stop(cluster)
        raise
    print(f"{options.nodes} nodes up after {time.monotonic() - began:.1f} s, in {cluster.root}", file=sys.stderr)


def check_programs() -> None:
    missing = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
    if missing:
        raise ClusterError(
            f"{', '.join(missing)}: not found. On Debian: apt-get install --no-install-recommends {PACKAGES}"
        )


def write_configuration(cluster: Cluster, options: argparse.Namespace) -> None:
    """Write configuration files, a munge key, and device files of pretended GPUs."""
    for name in ("etc", "log", "state", "spool", "pid", "gpu", "db"):
        (cluster.root / name).mkdir(parents=True, exist_ok=True)
    values = settings(cluster, options)
    cluster.conf.write_text(SLURM_CONF.format(**values))
    write_private(cluster.root / "etc" / "slurmdbd.conf", SLURMDBD_CONF.format(**values).encode())
    (cluster.root / "etc" / "gres.conf").write_text(GRES_CONF.format(**values) if options.gpus else "")
    key = cluster.root / "etc" / "munge.key"
    if not key.exists():
        write_private(key, os.urandom(1024))
    for number in range(options.gpus):
        # Slurm wants a device file, any will do.
        link = cluster.root / "gpu" / f"gpu{number}"
        link.unlink(missing_ok=True)
        link.symlink_to("/dev/null")


def settings(cluster: Cluster, options: argparse.Namespace) -> dict[str, object]:
    return {
        **vars(options),
        "root": cluster.root,
        "host": socket.gethostname().partition(".")[0],
        "user": getuser(),
        "first_port": options.port + 1,
        "last_port": options.port + options.nodes,
        "dbd_port": options.port + 500,
        "sql_port": options.port + 501,
        "last_gpu": options.gpus - 1,
        "preempt_signal": preempt_signal(),
    }


def preempt_signal() -> str:
    """The line that lets preemption send a job's own signal; its name changed, and a wrong one stops every command."""
    # Slurm's commands want a configuration before they tell their version; the daemon tells it without.
    program = shutil.which("slurmctld", path=PATH) or "slurmctld"
    version = subprocess.run([program, "-V"], capture_output=True, text=True, check=False).stdout
    major = int(version.split()[-1].partition(".")[0])
    return "SlurmctldParameters=preempt_send_user_signal" if major < 23 else "PreemptParameters=send_user_signal"


def start_daemons(cluster: Cluster, options: argparse.Namespace) -> None:
    files = {
        "key-file": "etc/munge.key",
        "socket": "munge.sock",
        "pid-file": "pid/munged.own",
        "seed-file": "munge.seed",
    }
    cluster.spawn("munged", "munged", "-F", *options_of(cluster.root, files))
    cluster.await_("munged", lambda: cluster.succeeds("munge", "-n", "-S", str(cluster.socket)))
    start_database(cluster, options.port + 501)
    cluster.spawn("slurmdbd", "slurmdbd", "-D")
    cluster.await_("slurmdbd", lambda: cluster.succeeds("sacctmgr", "-n", "show", "cluster"))
    cluster.spawn("slurmctld", "slurmctld", "-D", "-f", str(cluster.conf))
    for number in range(1, options.nodes + 1):
        node_up(cluster, f"n{number}")
    cluster.await_("nodes", lambda: len(usable_nodes(cluster)) == options.nodes)


def start_database(cluster: Cluster, port: int) -> None:
    """The database of the accounting. `mariadb-install-db` is in none of the packages, so SQL makes the tables."""
    data = cluster.root / "db" / "data"
    common = ["mariadbd", "--no-defaults", f"--user={getuser()}", f"--datadir={data}", "--skip-grant-tables"]
    common += ["--innodb-log-file-size=8M", "--innodb-buffer-pool-size=64M", "--innodb-lock-wait-timeout=900"]
    if not (data / "mysql").exists():
        make_tables(cluster, common, data)
    files = {"socket": "db/my.sock", "pid-file": "pid/mariadbd.own"}
    network = ["--bind-address=127.0.0.1", f"--port={port}", "--skip-name-resolve"]
    more = [*options_of(cluster.root, files), *network, "--innodb-flush-log-at-trx-commit=0"]
    cluster.spawn("mariadbd", *common, *more)
    cluster.await_("mariadbd", lambda: listens(port))


def make_tables(cluster: Cluster, command: Sequence[str], data: Path) -> None:
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(parents=True)
    script = "create database if not exists mysql;\nuse mysql;\n" + "".join(path.read_text() for path in SYSTEM_TABLES)
    made = subprocess.run(
        [*command, "--bootstrap"], input=script, text=True, capture_output=True, env=cluster.environment, check=False
    )
    if made.returncode:
        raise ClusterError(f"mariadbd cannot make its tables:\n{made.stderr[-2000:]}")


def options_of(root: Path, files: dict[str, str]) -> list[str]:
    return [f"--{name}={root / path}" for name, path in files.items()]


def usable_nodes(cluster: Cluster) -> set[str]:
    answer = cluster.ask("sinfo", "-h", "-N", "-p", "main", "-t", "idle,mixed,allocated", "-o", "%N")
    return set((answer or "").split())


def stop(cluster: Cluster) -> None:
    """End jobs, then daemons; jobs, their numbers and the accounting are there again at the next start."""
    if cluster.pid("slurmctld"):
        cluster.ask("scancel", f"--user={getuser()}")
        wait_until(lambda: cluster.ask("squeue", "-h") in ("", None), STOP_SECONDS)
    nodes = [name for name in cluster.daemons() if name.startswith("slurmd-")]
    for name in nodes:
        end_daemon(cluster, name)
    for pid in step_daemons(cluster):
        os.kill(pid, signal.SIGKILL)
    for name in ("slurmctld", "slurmdbd", "mariadbd", "munged"):
        end_daemon(cluster, name)


def end_daemon(cluster: Cluster, name: str) -> None:
    pid = cluster.pid(name)
    if pid is not None:
        os.kill(pid, signal.SIGTERM)
        if not wait_until(lambda: not cluster.owns(pid), STOP_SECONDS):
            os.kill(pid, signal.SIGKILL)
    cluster.pid_file(name).unlink(missing_ok=True)


def node_up(cluster: Cluster, name: str) -> None:
    (cluster.root / "spool" / name).mkdir(parents=True, exist_ok=True)
    cluster.spawn(f"slurmd-{name}", "slurmd", "-D", "-N", name, "-f", str(cluster.conf))


def node_down(cluster: Cluster, name: str) -> None:
    """Kill a node with all that runs on it, as a power cut does, and tell the controller.

    The step daemons go before the tasks: else they would still report how those ended.
    """
    pid = cluster.pid(f"slurmd-{name}")
    if pid is None:
        raise ClusterError(f"node {name} does not run; running: {', '.join(cluster.daemons()) or 'nothing'}")
    os.kill(pid, signal.SIGKILL)
    cluster.pid_file(f"slurmd-{name}").unlink()
    tasks = set(tasks_of(cluster, name))
    steps = {parent(task) for task in tasks} & set(step_daemons(cluster))
    for process in [*steps, *(tasks - steps)]:
        kill_if_there(process)
    cluster.ask("scontrol", "update", f"nodename={name}", "state=down", "reason=killed")


def tasks_of(cluster: Cluster, node: str) -> Iterator[int]:
    """Processes of jobs on a node."""
    for pid in processes():
        variables = read_bytes(pid, "environ").split(b"\0")
        if f"SLURMD_NODENAME={node}".encode() in variables and f"SLURM_CONF={cluster.conf}".encode() in variables:
            yield pid


def step_daemons(cluster: Cluster) -> list[int]:
    return [pid for pid in processes() if b"slurmstepd" in read_bytes(pid, "cmdline")[:40] and cluster.owns(pid)]


def processes() -> Iterable[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def read_bytes(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def parent(pid: int) -> int | None:
    fields = read_bytes(pid, "stat").rpartition(b")")[2].split()
    return int(fields[1]) if fields else None


def kill_if_there(pid: int | None) -> None:
    if pid is not None:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """True as soon as the condition holds, False if it did not within the time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(POLL_SECONDS)
    return True


def write_private(path: Path, content: bytes) -> None:
    """Write a file that is never readable by others, as Slurm and munge insist."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python slurm/cluster.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    root = Path(tempfile.gettempdir()) / f"one-machine-slurm-{getuser()}"
    made.add_argument("--root", type=Path, default=root, help="folder of the cluster (default: %(default)s)")
    commands = made.add_subparsers(dest="command", required=True)
    add = commands.add_parser("start", help="start, and print the line that a shell needs").add_argument
    add("--nodes", type=int, default=2)
    add("--cpus", type=int, default=4, help="per node, pretended")
    add("--gpus", type=int, default=2, help="per node, pretended")
    add("--memory", type=int, default=8000, help="megabytes per node, pretended")
    add("--port", type=int, default=27000, help="first of the ports in use")
    add("--max-array-size", type=int, default=1001)
    add = commands.add_parser("stop", help="stop").add_argument
    add("--clean", action="store_true", help="remove the folder too")
    add = commands.add_parser("node", help="kill a node with all its jobs, or bring it back").add_argument
    add("action", choices=["down", "up"])
    add("name", help="n1, n2, ...")
    return made


def main() -> int:
    """Do one command; returns its exit code."""
    options = parser().parse_args()
    cluster = Cluster(options.root.absolute())
    try:
        run(cluster, options)
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def run(cluster: Cluster, options: argparse.Namespace) -> None:
    if options.command == "start":
        start(cluster, options)
        print(f"export SLURM_CONF={shlex.quote(str(cluster.conf))}")
    elif options.command == "stop":
        stop(cluster)
        if options.clean:
            shutil.rmtree(cluster.root, ignore_errors=True)
    elif options.action == "up":
        node_up(cluster, options.name)
    else:
        node_down(cluster, options.name)


if __name__ == "__main__":
    sys.exit(main())
