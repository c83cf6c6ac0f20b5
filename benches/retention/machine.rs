//! What the figures were taken on: cores, memory, versions. No names of hosts, no paths.

use std::{fs, process::Command, thread};

use anyhow::{Context, Result};

/// The machine.
pub(crate) struct Machine {
    /// As the system offers them to this process.
    pub(crate) cores: usize,
    /// The first CPU's name.
    pub(crate) cpu: String,
    /// All of its memory.
    pub(crate) memory_mib: u64,
    /// The compiler, if it is here.
    pub(crate) rustc: Option<String>,
}

impl Machine {
    /// This one.
    pub(crate) fn look() -> Result<Self> {
        let cpus = fs::read_to_string("/proc/cpuinfo")?;
        let memory = fs::read_to_string("/proc/meminfo")?;
        let memory = field(&memory, "MemTotal").context("no MemTotal")?;
        let kib: u64 = memory.trim_end_matches("kB").trim().parse()?;
        let rustc = Command::new("rustc").arg("--version").output().ok();
        Ok(Self {
            cores: thread::available_parallelism()?.get(),
            cpu: field(&cpus, "model name").unwrap_or("unknown").to_owned(),
            memory_mib: kib / 1024,
            rustc: rustc
                .and_then(|output| String::from_utf8(output.stdout).ok())
                .map(|version| version.trim().to_owned()),
        })
    }
}

/// The value of `name: value`.
pub(crate) fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_once(':').map(|(_, value)| value.trim())
}
