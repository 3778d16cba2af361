//! What the documents name as proof is there.

use std::path::Path;

use foghorn_tests::env;

/// Where promises stand beside the tests that prove them.
const DOCUMENTS: [&str; 2] = ["docs/guarantees.md", "docs/guide.md"];
/// Names of tests are sentences; what is shorter is a module, a key or a word.
const LENGTH_MIN: usize = 20;

#[test]
fn every_test_that_a_promise_names_exists() {
    let mut sources = String::new();
    for folder in ["crates", "tests"] {
        collect(&env::checkout().join(folder), &mut sources);
    }
    let mut named = 0;
    for document in DOCUMENTS {
        let text = std::fs::read_to_string(env::checkout().join(document)).unwrap();
        for span in text.split('`').skip(1).step_by(2) {
            let Some(name) = name(span) else { continue };
            named += 1;
            let function = if span.ends_with('…') { format!("fn {name}") } else { format!("fn {name}(") };
            let generic = function.replace('(', "<");
            assert!(
                sources.contains(&function) || sources.contains(&generic),
                "{document} names the test {span}, which there isn't"
            );
        }
    }
    assert!(named > 100, "{named}");
}

#[test]
fn each_of_the_guides_ten_pitfalls_has_a_test_named_after_it() {
    let mut tests = String::new();
    collect(&env::checkout().join("tests/it"), &mut tests);
    for number in 1..=10 {
        assert!(tests.contains(&format!("async fn pitfall_{number}_")), "none for pitfall {number}");
    }
}

/// The test in a piece of code, `module::the_test` or `…the_test`; only its beginning if `…` follows.
fn name(span: &str) -> Option<&str> {
    let name = span.trim_end_matches('…').rsplit([':', '…']).next()?;
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    // Metrics are long, too.
    let test = name.len() >= LENGTH_MIN && name.chars().all(is_name) && !name.starts_with("foghorn_");
    test.then_some(name)
}

fn collect(folder: &Path, sources: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
}
