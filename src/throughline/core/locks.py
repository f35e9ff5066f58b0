"""Advisory locks on open files, where the system has them: one writer for a run folder, one for a journal."""

import errno


def take_lock(handle: int, *, shared: bool = False) -> bool:
    """Takes the lock of an open file, without waiting; False when another process holds it.

    True, too, where there are no such locks (Windows, some network file systems): one writer is then up to the user.
    """
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in {errno.EWOULDBLOCK, errno.EACCES}:
            return False
        if error.errno in {errno.ENOLCK, errno.ENOTSUP, errno.EINVAL}:
            return True
        raise
    return True
