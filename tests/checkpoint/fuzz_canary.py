"""What a hostile pickle would call, to show that it was called."""

import os
import sys

__all__ = ['fire', 'fired']

fired: list[object] = []


def fire(*args: object) -> list[object]:
    """Note that somebody called."""
    fired.append(args)
    return fired


class Watch:
    """Notes what the process does while a checkpoint is read, by Python's audit events."""

    NEVER = (
        'exec', 'compile', 'import', 'os.', 'subprocess.', 'pty.', 'socket.', 'ctypes.dlopen',
        'ctypes.call_function', 'shutil.', 'tempfile.', 'webbrowser.', 'urllib.', 'http.',
        'ftplib.',
        'smtplib.', 'sqlite3.', 'code.', 'function.__new__', 'marshal.', 'pickle.find_class',
        'setopencodehook', 'cpython.', 'builtins.input', 'builtins.breakpoint', 'signal.',
        'sys.set', 'syslog.', 'glob.',
    )  # fmt: skip
    # Looking at a folder, and what writing the output does to its hidden file.
    HARMLESS = ('os.listdir', 'os.scandir')
    WRITING = ('os.rename', 'os.remove')

    def __init__(self) -> None:
        self.active = False
        self.may_write_in: str | None = None
        self.seen: list[str] = []
        sys.addaudithook(self._note)

    def _note(self, event: str, args: tuple) -> None:
        if not self.active or event in self.HARMLESS:
            return
        inside = self.may_write_in is not None
        if event == 'open':
            path, mode, flags = args
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            allowed = inside and str(path).startswith(self.may_write_in)
            if writes and not allowed:
                self.seen.append(f'open {path!r} {mode!r}')
        elif event.startswith(self.NEVER) and not (
            event in self.WRITING and inside and str(args[0]).startswith(self.may_write_in)
        ):
            self.seen.append(f'{event} {args!r:.100}')
