//! A terminal of the test's own: what a program writes there is kept.

use std::{fs::File, io::Read, os::fd::OwnedFd, thread::JoinHandle};

use nix::pty::openpty;

/// A terminal, and what came to stand on it.
pub struct Terminal {
    program: OwnedFd,
    written: JoinHandle<Vec<u8>>,
}

impl Terminal {
    pub fn open() -> Self {
        let pty = openpty(None, None).unwrap();
        let mut screen = File::from(pty.master);
        Self {
            program: pty.slave,
            written: std::thread::spawn(move || {
                let mut written = Vec::new();
                // Reading fails once the last program has closed it.
                let _ = screen.read_to_end(&mut written);
                written
            }),
        }
    }

    /// Its end for one more stream of a program.
    pub fn stream(&self) -> OwnedFd {
        self.program.try_clone().unwrap()
    }

    /// All that was written, once its programs have ended. A terminal puts a carriage return before each line feed.
    pub fn read(self) -> String {
        drop(self.program);
        let written = self.written.join().unwrap();
        String::from_utf8(written).unwrap().replace("\r\n", "\n")
    }
}
