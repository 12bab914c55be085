"""Plays one scene of ferry on a pseudo terminal: terminal.py FERRY SCENE. What it prints is compared; waiting is for output, never for time."""
import fcntl, os, pty, select, signal, struct, subprocess, sys, termios, time

FERRY = sys.argv[1]
QUIET = ["--network", "none"]
LIMIT = 60


def ferry(*words):
    return subprocess.run([FERRY, *words], check=True, capture_output=True, text=True).stdout.strip()


def running(name):
    return "running" if ferry("inspect", "-f", "{{.State.Running}}", name) == "true" else "ended"


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, *command, rows=31, columns=97):
        self.seen = ""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
            os.execvp(command[0], command)

    def resize(self, rows, columns):
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text):
        os.write(self.fd, text.encode())

    def until(self, text):
        """Reads until `text` was printed, and takes what came up to there."""
        end = time.monotonic() + LIMIT
        while text not in self.seen:
            if not select.select([self.fd], [], [], max(0, end - time.monotonic()))[0]:
                sys.exit(f"waited for {text!r}, saw {self.seen!r}")
            try:
                self.seen += os.read(self.fd, 4096).decode()
            except OSError:
                sys.exit(f"ended before {text!r}, after {self.seen!r}")
        self.seen = self.seen.partition(text)[2]

    def code(self):
        """Reads to the end. The exit code, and whether the terminal is as it was: by lines, with echo."""
        while True:
            try:
                if not os.read(self.fd, 4096):
                    break
            except OSError:
                break
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        plain = termios.tcgetattr(self.fd)[3] & (termios.ICANON | termios.ECHO)
        return f"{code} {'restored' if plain == termios.ICANON | termios.ECHO else 'raw'}"

    def hang_up(self):
        os.close(self.fd)
        os.waitpid(self.pid, 0)


def size():
    inside = "test -t 0 && test -t 1 && test -t 2 && stty size; trap 'stty size; exit 5' WINCH; echo ready; while :; do sleep 0.01; done"
    one = Terminal(FERRY, "run", "-it", "--rm", *QUIET, "busybox:1", "sh", "-c", inside)
    one.until("31 97\r\nready")
    one.resize(40, 120)
    one.until("40 120")
    print("run", one.code())
    ferry("run", "-d", "--name", "one", *QUIET, "busybox:1", "sleep", "1000")
    two = Terminal(FERRY, "exec", "-it", "one", "sh", "-c", inside.replace("exit 5", "exit 6"))
    two.until("31 97\r\nready")
    two.resize(41, 121)
    two.until("41 121")
    print("exec", two.code())
    print(ferry("rm", "-f", "one"))


def detach():
    one = Terminal(FERRY, "run", "-it", "--name", "one", *QUIET, "busybox:1", "sh")
    one.type("echo fir''st\n")
    one.until("first")
    one.type("\x10\x11")
    print("run", one.code(), running("one"))
    two = Terminal(FERRY, "attach", "--detach-keys", "ctrl-x,y", "one")
    two.type("echo sec''ond\n")
    two.until("second")
    two.type("\x18y")
    print("attach", two.code(), running("one"))
    # What is no detach sequence reaches the program; here its end.
    three = Terminal(FERRY, "attach", "--detach-keys", "ctrl-x,y", "one")
    three.type("\x10\x11 echo thi''rd\n")
    three.until("third")
    three.type("exit 9\n")
    print("attach", three.code(), running("one"))
    # `start -ai` has it back.
    four = Terminal(FERRY, "start", "-ai", "one")
    four.type("echo fou''rth\n")
    four.until("fourth")
    five = Terminal(FERRY, "exec", "-it", "one", "sh")
    five.type("echo fif''th\n")
    five.until("fifth")
    five.type("\x10\x11")
    print("exec", five.code(), running("one"))
    four.type("exit 3\n")
    print("start", four.code(), running("one"))
    print(ferry("rm", "one"))


def own_keys():
    def played(name, terminal):
        terminal.type("echo he''re\n")
        terminal.until("here")
        # Docker's own keys are input then.
        terminal.type("\x10\x11\n")
        terminal.type("echo the''re\n")
        terminal.until("there")
        terminal.type("\x01d")
        print(name, terminal.code(), running("one"))

    keys = ["--detach-keys", "ctrl-a,d"]
    played("run", Terminal(FERRY, "run", "-it", *keys, "--name", "one", *QUIET, "busybox:1", "sh"))
    played("exec", Terminal(FERRY, "exec", "-it", *keys, "one", "sh"))
    ferry("kill", "one")
    played("start", Terminal(FERRY, "start", "-ai", *keys, "one"))
    played("attach", Terminal(FERRY, "attach", *keys, "one"))
    print(ferry("rm", "-f", "one"))


def signals():
    trap = "trap 'echo got; exit 7' TERM; echo ready; while :; do sleep 0.01; done"
    for words in (["busybox:1", "sh", "-c", trap], ["--init", "busybox:1", "sh", "-c", "echo ready; exec sleep 1000"]):
        one = subprocess.Popen([FERRY, "run", "--rm", *QUIET, *words], stdout=subprocess.PIPE, text=True)
        one.stdout.readline()
        one.send_signal(signal.SIGTERM)
        print("run", one.stdout.read().strip(), one.wait())


def hang_up():
    line = f"'{FERRY}' run -d --name one {' '.join(QUIET)} busybox:1 sh -c 'while :; do echo on; sleep 0.05; done'; echo started; read x"
    one = Terminal("sh", "-c", line)
    one.until("started")
    one.hang_up()
    two = Terminal(FERRY, "run", "-it", "--name", "two", *QUIET, "busybox:1", "sh")
    two.type("echo rea''dy\n")
    two.until("ready")
    two.hang_up()
    print(running("one"), running("two"))
    # Both are still served: the one's log grows, the other is attached again.
    three = Terminal(FERRY, "logs", "-f", "--tail", "0", "one")
    three.until("on")
    three.hang_up()
    four = Terminal(FERRY, "attach", "two")
    four.type("exit 8\n")
    print("attach", four.code())
    print(ferry("rm", "-f", "one", "two"))


globals()[sys.argv[2]]()
