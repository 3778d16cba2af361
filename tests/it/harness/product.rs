//! How the product is run, shown with a stand-in for it.

use std::os::unix::fs::PermissionsExt;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::time::Duration;

use foghorn_tests::PATIENCE;
use foghorn_tests::foghorn::Foghorn;
use foghorn_tests::process::{Process, Program};
use futures::FutureExt;
use tempfile::TempDir;

/// Says that it listens on what follows --listen and --admin, and drains on SIGTERM.
const STAND_IN: &str = r#"#!/bin/sh
trap 'echo "{\"message\":\"drained\"}" >&2; exit 0' TERM
say() { echo "{\"level\":\"INFO\",\"message\":\"listening\",\"service\":\"$1\",\"address\":\"$2\"}" >&2; }
echo "starting: $*" >&2
say http "$3"
say admin "${4#--admin=}"
while :; do sleep 0.1; done
"#;

fn stand_in() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("foghorn");
    std::fs::write(&path, STAND_IN).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    (folder, path)
}

#[tokio::test]
async fn it_keeps_its_ports_over_a_restart() {
    let (_folder, binary) = stand_in();
    let arguments = ["gateway", "--listen", "127.0.0.1:0", "--admin=127.0.0.1:0"];
    let mut foghorn = Foghorn::spawn_binary(&binary, &arguments, &[]).await;
    let before = (foghorn.http().to_owned(), foghorn.admin().to_owned());
    let pid = foghorn.process().pid();
    assert_ne!(before.0, before.1);
    assert!(!before.0.ends_with(":0"), "{}", before.0);

    foghorn.kill();
    foghorn.restart().await;
    assert_eq!((foghorn.http(), foghorn.admin()), (before.0.as_str(), before.1.as_str()));
    assert_ne!(foghorn.process().pid(), pid);
    let starts = foghorn.process().log().matches("--log json").count();
    assert_eq!(starts, 2, "one log for both lives");
}

#[tokio::test]
async fn sigterm_lets_it_end_by_itself() {
    let (_folder, binary) = stand_in();
    let arguments = ["gateway", "--listen", "127.0.0.1:0", "--admin=127.0.0.1:0"];
    let foghorn = Foghorn::spawn_binary(&binary, &arguments, &[]).await;
    foghorn.sigterm();
    assert!(foghorn.wait(PATIENCE).await.success());
    foghorn.process().wait_for_log_line("drained", PATIENCE).await;
}

#[tokio::test]
async fn an_early_end_shows_the_log() {
    let program = Program::new("/bin/sh").args(["-c", "echo 'no such folder as yours' >&2; exit 3"]);
    let process = Process::spawn(program);
    let ready = AssertUnwindSafe(process.wait_for_log_line("ready", PATIENCE)).catch_unwind().await;
    let message = ready.unwrap_err().downcast::<String>().unwrap();
    assert!(message.contains("exit status: 3"), "{message}");
    assert!(message.contains("no such folder as yours"), "{message}");
}

#[tokio::test]
async fn a_kill_takes_the_whole_process_group() {
    let program = Program::new("/bin/sh").args(["-c", "sleep 1000 & echo child $!; wait"]);
    let mut process = Process::spawn(program);
    let child = process
        .wait_for_log("its child", PATIENCE, |line| Some(line.strip_prefix("child ")?.to_owned()))
        .await;
    process.kill();
    let stat = format!("/proc/{child}/stat");
    foghorn_tests::wait::until("the child's end", Duration::from_secs(5), async || {
        let state = std::fs::read_to_string(&stat).ok();
        // A zombie is as good as gone.
        state.is_none_or(|state| state.contains(") Z ")).then_some(())
    })
    .await;
}

#[test]
fn tests_may_share_what_they_start() {
    fn shared<T: Send + Sync>() {}
    shared::<Foghorn>();
    shared::<foghorn_tests::nats::NatsServer>();
    shared::<foghorn_tests::postgres::PostgresServer>();
    shared::<foghorn_tests::nginx::Nginx>();
    shared::<foghorn_tests::chrome::Chrome>();
    shared::<foghorn_tests::sse::SseClient>();
}
