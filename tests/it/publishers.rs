//! The examples in docs/publish, run as they stand there.

use std::process::Command;

use foghorn_tests::env;
use serde_json::json;

use crate::deployment::{Deployment, Shape};

#[tokio::test(flavor = "multi_thread")]
async fn each_example_publishes_and_its_second_try_doubles_nothing() {
    let d = Deployment::cluster(1).await;
    let Shape::Cluster(cluster) = &d.shape else { unreachable!("a cluster was asked for") };
    let channel = d.name("examples");
    let mut listener = d.listen(&format!("channels={channel}"), None).await;

    let (http, grpc, nats) =
        (cluster.fanouts[0].url(""), cluster.fanouts[0].grpc().to_owned(), cluster.nats.url());
    let (sh, python, node) = ("sh".into(), env::publishers_python(), "node".into());
    let examples = [
        (&sh, "shell/publish.sh", &http),
        (&python, "python/publish_grpc.py", &grpc),
        (&python, "python/publish_nats.py", &nats),
        (&node, "node/publish-grpc.js", &grpc),
        (&node, "node/publish-nats.js", &nats),
    ];
    for (program, example, address) in examples {
        let data = json!({ "by": example }).to_string();
        for _ in 0..2 {
            let ran = Command::new(program)
                .current_dir(env::checkout().join("docs/publish"))
                .args([example, address, &channel, "paid", example, &data])
                .output()
                .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
            assert!(ran.status.success(), "{example}: {}", String::from_utf8_lossy(&ran.stderr));
        }
        let block = listener.event().await;
        assert_eq!((block.event_type(), block.data.as_deref()), ("paid", Some(&*data)), "{example}");
    }
    d.publish(json!({ "channel": channel, "data": "last" })).await;
    assert_eq!(listener.data(1).await, ["last"]);

    let refused = Command::new(&python)
        .current_dir(env::checkout().join("docs/publish"))
        .args(["python/publish_nats.py", &nats, "broadcast.not/a/channel", "paid", "1", "1"])
        .output()
        .unwrap();
    assert!(!refused.status.success(), "a bad channel is no success");
}
