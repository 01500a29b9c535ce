//! The few calls of the operating system that the standard library lacks.
#![allow(unsafe_code)]

/// Effective user id of this process.
pub fn effective_uid() -> u32 {
    // SAFETY: takes nothing, changes nothing, cannot fail.
    unsafe { libc::geteuid() }
}

/// Files made from now on are private to the user.
pub fn make_files_private() {
    // SAFETY: changes one number of this process; called before any thread is started.
    unsafe { libc::umask(0o077) };
}

/// A line of standard input; a terminal does not show it.
///
/// # Errors
/// It cannot be read.
pub fn read_hidden_line() -> std::io::Result<String> {
    let mut line = String::new();
    // SAFETY: all-zero is a valid `termios`.
    let mut shown: libc::termios = unsafe { std::mem::zeroed() };
    // SAFETY: `shown` is a valid place to write to.
    if unsafe { libc::tcgetattr(libc::STDIN_FILENO, &mut shown) } != 0 {
        // No terminal.
        std::io::stdin().read_line(&mut line)?;
        return Ok(line);
    }
    let hidden = libc::termios { c_lflag: shown.c_lflag & !libc::ECHO, ..shown };
    let set = |mode: &libc::termios| {
        // SAFETY: `mode` is a valid mode for the call to read.
        unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, mode) }
    };
    set(&hidden);
    let read = std::io::stdin().read_line(&mut line);
    set(&shown);
    read.map(|_| line)
}

/// Leaves the terminal's session, so that closing it does not end this process. No effect on a
/// process that leads its group already: it is on its own then.
pub fn leave_session() {
    // SAFETY: takes nothing; failure leaves everything as it was.
    unsafe { libc::setsid() };
}

/// Allows as many open files as the system lets this user have: every connection takes two.
pub fn raise_open_files_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place for the call to write to, and to read from after that.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        }
    }
}
