//! What the fuzz targets share.
//!
//! A target feeds bytes from outside to the code that reads them, and checks what must hold of any bytes:
//! not only that nothing panics, but that what is refused is refused in bounds and what is accepted keeps its
//! promises, judged by other code than that under test where there is any.
//!
//! The seeds of a target are in `corpus/<target>`; a file's name says what it shows.

use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Runs `call`, which reads `input` bytes from outside. Panics when it held more memory at a time than
/// `factor` times as many, and a little.
pub fn within_memory<T>(input: usize, factor: usize, call: impl FnOnce() -> T) -> T {
    /// What an error's text and the like take, however short the input.
    const LITTLE: usize = 4096;
    MEMORY.reset_peak_usage();
    let before = MEMORY.current_usage();
    let result = call();
    let held = MEMORY.peak_usage().saturating_sub(before);
    assert!(held <= input * factor + LITTLE, "{input} bytes of input made it hold {held} bytes");
    result
}

/// What any listener ends up with: line breaks are LF.
pub fn normalised(data: &str) -> String {
    data.replace("\r\n", "\n").replace('\r', "\n")
}

/// The first line of `input`, and what follows its LF.
pub fn first_line(input: &[u8]) -> (&[u8], Option<&[u8]>) {
    match input.iter().position(|byte| *byte == b'\n') {
        Some(at) => (&input[..at], Some(&input[at + 1..])),
        None => (input, None),
    }
}
