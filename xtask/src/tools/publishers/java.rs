//! The examples in Java: compiled by Maven, beside their libraries.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::sources;
use crate::command;
use crate::tools::{Tool, install, search, text};
use crate::workspace::root;

const VARIABLE: &str = "FOGHORN_TEST_PUBLISHERS_JAVA";
const EXAMPLES: &str = "docs/publish/java";
/// What pom.xml asks for.
const VERSION_MIN: (u32, u32) = (17, 0);
/// A cold machine downloads some 40 MB.
const BUILD: Duration = Duration::from_secs(10 * 60);

/// The folder of the classes and libraries; nothing if there is no Java with Maven that can make them.
pub(super) fn ensure() -> Result<Option<Tool>> {
    let at_hand = |name| search::on_path(&[name]).into_iter().next();
    let (Some(java), Some(_), Some(maven)) = (at_hand("java"), at_hand("javac"), at_hand("mvn")) else {
        println!("no java, javac or mvn here: the examples in {EXAMPLES} aren't run");
        return Ok(None);
    };
    let version = search::version(&java, "--version")?;
    if search::major_minor(&version) < VERSION_MIN {
        println!("java is {version}, too old for the examples in {EXAMPLES}: they aren't run");
        return Ok(None);
    }
    let target = root().join(EXAMPLES).join("target");
    let wanted = sources(EXAMPLES, &["java", "xml", "proto"])?;
    let stamp = target.join("sources");
    let find = || Ok((std::fs::read_to_string(&stamp).ok().as_ref() == Some(&wanted)).then_some(()));
    install::find_or(find, || {
        println!("building {EXAMPLES} (mvn)");
        let mut build = Command::new(&maven);
        build.args(["--quiet", "--batch-mode", "process-classes"]).current_dir(root().join(EXAMPLES));
        // A short run gains nothing by the second compiler; this halves it.
        build.env("MAVEN_OPTS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC");
        command::output(&mut build, BUILD)?;
        std::fs::write(&stamp, &wanted).map_err(Into::into)
    })?
    .with_context(|| format!("cannot build {EXAMPLES}"))?;
    Ok(Some(Tool { name: "java", variable: VARIABLE, version, place: text(&target) }))
}
