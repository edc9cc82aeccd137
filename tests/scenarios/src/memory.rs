//! The resident memory of this process.

const PAGE_BYTES: usize = 4_096;

/// Resident bytes, as the kernel counts them.
///
/// # Panics
/// When the kernel does not say.
pub fn resident_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").expect("the kernel tells the memory of a process");
    let pages = text.split_whitespace().nth(1).and_then(|field| field.parse::<usize>().ok());
    pages.expect("the second field is the number of resident pages") * PAGE_BYTES
}
