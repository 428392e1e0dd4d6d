//! What the programs of this crate share.

use std::io;

/// What the process has in memory, in bytes.
///
/// # Errors
/// When the operating system does not tell, as others than Linux do not.
pub fn resident_bytes() -> io::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .ok_or_else(|| io::Error::other("no VmRSS in /proc/self/status"))?;
    let kib: Result<u64, _> = line.trim().trim_end_matches("kB").trim().parse();
    Ok(kib.map_err(io::Error::other)? * 1024)
}
