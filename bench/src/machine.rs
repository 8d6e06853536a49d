//! What a reader of the results must know about the machine; nothing that tells which one it was.

use std::fs;
use std::process::Command;

/// Facts with their names.
#[must_use]
pub fn facts(congestion: &str, files: u32) -> Vec<(String, String)> {
    let cpuinfo = read("/proc/cpuinfo");
    let model =
        cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map(|pair| pair.1);
    let processors = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let meminfo = read("/proc/meminfo");
    let kib = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse().ok());
    let memory: u64 = kib.unwrap_or_default();
    [
        ("processor", model.unwrap_or("unknown").to_owned()),
        ("processors", processors.to_string()),
        ("memory", format!("{} GiB", memory >> 20)),
        ("kernel", read("/proc/sys/kernel/osrelease").trim().to_owned()),
        ("congestion control", congestion.to_owned()),
        ("open files", files.to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// Today, UTC.
#[must_use]
pub fn today() -> String {
    let output = Command::new("date").args(["-u", "+%Y-%m-%d"]).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}
