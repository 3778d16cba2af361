//! Looks for programs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::command;

/// Debian keeps servers here, and leaves it out of the PATH of anyone but root.
const FOR_ROOT: [&str; 2] = ["/usr/sbin", "/usr/local/sbin"];

/// What `variable` names, else every program called one of `names` on the PATH, in its order.
pub(super) fn candidates(variable: &str, names: &[&str]) -> Vec<PathBuf> {
    given(variable).map_or_else(|| on_path(names), |given| vec![given])
}

/// Every program called one of `names` on the PATH, in its order.
pub(super) fn on_path(names: &[&str]) -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(FOR_ROOT.map(PathBuf::from));
    let programs = folders.flat_map(|folder| names.iter().map(move |name| folder.join(name)));
    programs.filter(|program| program.is_file()).collect()
}

/// The value of `variable`, if it has one.
pub(super) fn given(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// The version a program states: the first word of its answer to `flag` (or several) that begins with a digit.
pub(super) fn version(program: &Path, flag: &str) -> Result<String> {
    let output = command::output(Command::new(program).args(flag.split(' ')), Duration::from_secs(20))?;
    // nginx answers on standard error.
    let answer = output.stdout + &output.stderr;
    let words = answer.split(|c: char| c.is_whitespace() || c == '/');
    let mut versions = words
        .map(|word| word.trim_start_matches('v'))
        .filter(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    Ok(versions.next().unwrap_or("unknown").to_owned())
}

/// The first two numbers of a version: (2, 11) of `2.11.4`.
pub(super) fn major_minor(version: &str) -> (u32, u32) {
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::major_minor;

    #[test]
    fn versions_compare_as_numbers() {
        assert!(major_minor("2.9.10") < major_minor("2.11.0"));
        assert_eq!(major_minor("15.18"), (15, 18));
        assert_eq!(major_minor("17beta1"), (17, 0), "a first beta comes before any minor release");
        assert_eq!(major_minor("unknown"), (0, 0));
    }
}
