//! A wall clock that is wrong.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Stands before the C library's own function. What the machine counts since its own start goes on as it is; so do waits
/// until a time, whose end the kernel judges by the right clock.
const WRONG_CLOCK: &str = r#"
    #define _GNU_SOURCE
    #include <stdlib.h>
    #include <sys/syscall.h>
    #include <time.h>
    #include <unistd.h>
    static long wrong_s(void) {
        const char *text = getenv("WALL_CLOCK_WRONG_S");
        return text ? atol(text) : 0;
    }
    int clock_gettime(clockid_t clock, struct timespec *now) {
        long failed = syscall(SYS_clock_gettime, clock, now);
        if (clock == CLOCK_REALTIME) now->tv_sec += wrong_s();
        return failed;
    }
"#;

/// Wrong wall clocks for processes that are started under it.
pub struct WallClock {
    library: PathBuf,
}

impl WallClock {
    /// Made in this directory, by the C compiler that the project needs anyway.
    pub fn new(directory: &Path) -> WallClock {
        let (source, library) = (directory.join("clock.c"), directory.join("clock.so"));
        std::fs::write(&source, WRONG_CLOCK).expect("the source can be written");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source);
        assert!(compiler.status().expect("a C compiler").success());
        WallClock { library }
    }

    /// The variables of a process that sees it wrong by so many seconds.
    pub fn wrong_by(&self, seconds: i64) -> Vec<(String, String)> {
        let library = self.library.to_str().expect("a path in UTF-8").to_owned();
        vec![("LD_PRELOAD".into(), library), ("WALL_CLOCK_WRONG_S".into(), seconds.to_string())]
    }

    /// By how much a program with these variables sees it wrong.
    pub fn is_seen_wrong_by(&self, seconds: i64) -> i64 {
        let said = Command::new("date").arg("+%s").envs(self.wrong_by(seconds)).output();
        let said = String::from_utf8(said.expect("`date` runs").stdout).expect("digits");
        let seen: i64 = said.trim().parse().expect("seconds since 1970");
        seen - std::time::UNIX_EPOCH.elapsed().expect("a time after 1970").as_secs() as i64
    }
}
