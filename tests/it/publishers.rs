//! The examples in docs/publish, run as they stand there, in each language that is at hand.

use std::ffi::OsString;
use std::process::{Command, Output};

use foghorn_tests::env;
use serde_json::json;

use crate::deployment::{Deployment, Shape};

/// A program and what comes before an example's own arguments.
struct Example {
    /// Language and way: what it is called here, and its event's id.
    name: &'static str,
    command: Vec<OsString>,
    address: String,
}

impl Example {
    fn new(name: &'static str, command: &[OsString], address: &str) -> Self {
        Example { name, command: command.to_vec(), address: address.to_owned() }
    }

    /// Publishes on a channel, with its name as the event's id.
    fn run(&self, channel: &str, data: &str) -> Output {
        Command::new(&self.command[0])
            .args(&self.command[1..])
            .current_dir(env::checkout().join("docs/publish"))
            .args([&self.address, channel, "paid", self.name, data])
            .output()
            .unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }
}

/// Those whose language is at hand. Python, Node and Rust always are: all else here needs them.
fn examples(http: &str, grpc: &str, nats: &str) -> Vec<Example> {
    let script = |program: OsString, path: &str| [program, path.into()];
    let (sh, python, node) =
        (OsString::from("sh"), env::publishers_python().into_os_string(), OsString::from("node"));
    let mut examples = vec![
        Example::new("shell, http", &script(sh, "shell/publish.sh"), http),
        Example::new("python, grpc", &script(python.clone(), "python/publish_grpc.py"), grpc),
        Example::new("python, nats", &script(python, "python/publish_nats.py"), nats),
        Example::new("node, grpc", &script(node.clone(), "node/publish-grpc.js"), grpc),
        Example::new("node, nats", &script(node, "node/publish-nats.js"), nats),
        Example::new("rust, grpc", &[env::built("publish-grpc").into()], &format!("http://{grpc}")),
        Example::new("rust, nats", &[env::built("publish-nats").into()], nats),
    ];
    if let Some(programs) = env::publishers_go() {
        examples.push(Example::new("go, grpc", &[programs.join("publish-grpc").into()], grpc));
        examples.push(Example::new("go, nats", &[programs.join("publish-nats").into()], nats));
    }
    if let Some(target) = env::publishers_java() {
        let mut classpath = target.join("classes").into_os_string();
        classpath.push(":");
        classpath.push(target.join("dependency/*"));
        // Programs that end at once don't need the second compiler.
        let java = ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp"].map(OsString::from);
        let class = |name: &str| [&java[..], &[classpath.clone(), name.into()]].concat();
        examples.push(Example::new("java, grpc", &class("PublishGrpc"), grpc));
        examples.push(Example::new("java, nats", &class("PublishNats"), nats));
    }
    examples
}

#[tokio::test(flavor = "multi_thread")]
async fn each_example_publishes_its_second_try_doubles_nothing_and_a_refusal_is_no_success() {
    let d = Deployment::cluster(1).await;
    let Shape::Cluster(cluster) = &d.shape else { unreachable!("a cluster was asked for") };
    let channel = d.name("examples");
    let mut listener = d.listen(&format!("channels={channel}"), None).await;

    for example in examples(&cluster.fanouts[0].url(""), cluster.fanouts[0].grpc(), &cluster.nats.url()) {
        let name = example.name;
        println!("{name}");
        let data = json!({ "by": name }).to_string();
        for _ in 0..2 {
            let ran = example.run(&channel, &data);
            assert!(ran.status.success(), "{name}: {}", String::from_utf8_lossy(&ran.stderr));
        }
        let block = listener.event().await;
        assert_eq!((block.event_type(), block.data.as_deref()), ("paid", Some(&*data)), "{name}");
        let refused = example.run("broadcast.not/a/channel", "1");
        assert!(!refused.status.success(), "{name}: a bad channel is no success");
    }
    d.publish(json!({ "channel": channel, "data": "last" })).await;
    assert_eq!(listener.data(1).await, ["last"]);
}
