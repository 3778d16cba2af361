//! The doors that only a cluster has, and the commands that use the others.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use foghorn_core::channel::Channel;
use foghorn_core::shard::ShardCount;
use foghorn_tests::env;
use foghorn_tests::nginx::Nginx;
use serde_json::{Value, json};

use crate::deployment::{Deployment, Shape};

#[tokio::test(flavor = "multi_thread")]
async fn nats_publishes_by_request_and_straight_into_the_journal() {
    let d = Deployment::cluster(4).await;
    let Shape::Cluster(cluster) = &d.shape else { unreachable!("a cluster was asked for") };
    let nats = async_nats::connect(cluster.nats.url()).await.unwrap();
    let channel = d.name("bus");
    let mut listener = d.listen(&format!("channels={channel}"), None).await;
    let request = async |id: &str, data: &str| -> Value {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Foghorn-Event", "made");
        headers.insert("Foghorn-Id", id);
        headers.insert("Foghorn-Ack", "durable");
        let subject = format!("foghorn.publish.{channel}");
        let reply = nats.request_with_headers(subject, headers, data.to_owned().into()).await.unwrap();
        serde_json::from_slice(&reply.payload).unwrap()
    };
    let first = request("1", "by request").await;
    assert_eq!((&first["duplicate"], &first["durable"]), (&json!(false), &json!(true)), "{first}");
    assert_eq!(request("1", "by request").await["duplicate"], true);
    let bad = nats.request("foghorn.publish.broadcast.x", vec![0xff_u8].into()).await.unwrap();
    let bad: Value = serde_json::from_slice(&bad.payload).unwrap();
    assert!(bad["error"]["type"].as_str().unwrap().ends_with("/not-utf8"), "{bad}");

    let mut mistyped = async_nats::HeaderMap::new();
    mistyped.insert("Foghorn-Evnt", "made");
    let subject = format!("foghorn.publish.{channel}");
    let refused = nats.request_with_headers(subject, mistyped, "lost type".into()).await.unwrap();
    let refused: Value = serde_json::from_slice(&refused.payload).unwrap();
    let error = &refused["error"];
    assert!(error["type"].as_str().unwrap().ends_with("/bad-event"), "{refused}");
    assert!(error["detail"].as_str().unwrap().contains("did you mean Foghorn-Event?"), "{refused}");
    assert_eq!(error["key"], "Foghorn-Evnt", "{refused}");

    let shard = ShardCount::new(4).unwrap().shard_of(&Channel::parse(channel.as_str()).unwrap());
    let journal = |shard: u8| format!("foghorn.journal.{shard}.{channel}");
    // Into the wrong shard, and not UTF-8: skipped by relay and log alike, and nothing after them suffers.
    let wrong = (shard.get() + 1) % 4;
    for (subject, data) in
        [(journal(wrong), &b"lost"[..]), (journal(shard.get()), b"\xff"), (journal(shard.get()), b"direct")]
    {
        let ack = nats.request(subject, data.into()).await.unwrap();
        assert!(String::from_utf8_lossy(&ack.payload).contains("FOGHORN_"), "{ack:?}");
    }
    let block = listener.event().await;
    assert_eq!((block.event_type(), block.data.as_deref()), ("made", Some("by request")));
    assert_eq!(listener.data(1).await, ["direct"]);
    d.publish(json!({ "channel": channel, "data": "after", "ack": "durable" })).await;
    assert_eq!(listener.data(1).await, ["after"]);
    let mut since = d.listen(&format!("channels={channel}&since=1h"), None).await;
    assert_eq!(since.first(3).await, ["by request", "direct", "after"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_names_the_problem_in_its_metadata() {
    use foghorn_rpc::v1::{PublishRequest, publisher_client::PublisherClient};

    let d = Deployment::standalone(1).await;
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", d.grpc())).unwrap();
    let mut publisher = PublisherClient::new(endpoint.connect().await.unwrap());
    for (channel, event, problem) in [("a..b", "", "bad-channel"), ("a", "stream-x", "reserved-event-type")] {
        let request =
            PublishRequest { channel: channel.to_owned(), event: event.to_owned(), ..Default::default() };
        let status = publisher.publish(request).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status}");
        let named = status.metadata().get("foghorn-problem").map(|name| name.to_str().unwrap());
        assert_eq!(named, Some(problem), "{status}");
    }
}

/// The certificate that docker-compose.yml has made, in the shipped nginx, as the README says to use it.
#[tokio::test(flavor = "multi_thread")]
async fn the_commands_go_through_the_shipped_nginx_with_a_certificate_of_its_own() {
    let d = Deployment::standalone(1).await;
    let Shape::Standalone(process) = &d.shape else { unreachable!("standalone was asked for") };
    let mut nginx = Nginx::foghorn(&[process.http()], &[process.http()]).await;
    let made = tempfile::tempdir().unwrap();
    let script = env::checkout().join("deploy/tls/make-certificate.sh");
    let output = Command::new("sh").arg(script).arg(made.path()).arg("localhost").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let certificate = made.path().join("tls.crt");
    std::fs::copy(&certificate, nginx.folder().join("cert.pem")).unwrap();
    std::fs::copy(made.path().join("tls.key"), nginx.folder().join("key.pem")).unwrap();
    nginx.restart().await;

    let (url, ca) = (nginx.url(""), certificate.display().to_string());
    let channel = d.name("tls");
    let foghorn = async |arguments: &[&str]| {
        let arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
        let run = move || Command::new(env::foghorn()).args(arguments).output().unwrap();
        tokio::task::spawn_blocking(run).await.unwrap()
    };
    let published = foghorn(&["publish", &channel, "secret", "--url", &url, "--ca", &ca]).await;
    assert!(published.status.success(), "{published:?}");
    let pattern = format!("{}.>", channel.split('.').next().unwrap());
    let heard =
        ["subscribe", &pattern, "--since", "1h", "--raw", "--exit-after", "1", "--url", &url, "--ca", &ca];
    let heard = foghorn(&heard).await;
    assert_eq!((heard.status.code(), &heard.stdout[..]), (Some(0), &b"secret\n"[..]), "{heard:?}");

    // Without it they say what is wrong, and at once: another attempt would be no better.
    let began = Instant::now();
    for arguments in [&["publish", &channel, "secret"][..], &["subscribe", &channel]] {
        let refused = foghorn(&[arguments, &["--url", &url]].concat()).await;
        let said = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        assert!(said.contains("certificate") && said.contains("--ca FILE"), "{said}");
        assert!(!said.contains("does a server listen there") && !said.contains("again"), "{said}");
    }
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_publish_lines_and_print_events() {
    let d = Deployment::standalone(1).await;
    let Shape::Standalone(process) = &d.shape else { unreachable!("standalone was asked for") };
    let url = process.url("");
    let channel = d.name("logs");
    let publish = |arguments: &[&str], input: &str| {
        let mut child = Command::new(env::foghorn())
            .args(["publish", &channel, "--url", &url])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    let one = publish(&["hello", "--event", "greeting", "--json"], "");
    assert!(one.status.success(), "{one:?}");
    let answer: Value = serde_json::from_slice(&one.stdout).unwrap();
    assert_eq!(answer["duplicate"], false, "{answer}");
    let lines: String = (0..300).map(|n| format!("line {n}\n")).collect();
    assert!(publish(&["--lines"], &lines).status.success());
    let refused = publish(&["x", "--event", "stream-x"], "");
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("reserved"), "{refused:?}");

    let subscribe = Command::new(env::foghorn())
        .args(["subscribe", &channel, "--url", &url, "--since", "1h", "--json", "--exit-after", "301"])
        .output()
        .unwrap();
    assert!(subscribe.status.success(), "{subscribe:?}");
    let text = String::from_utf8(subscribe.stdout).unwrap();
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&events[0]["event"], &events[0]["data"]), (&json!("greeting"), &json!("hello")));
    for (number, event) in events[1..].iter().enumerate() {
        assert_eq!(event["data"], format!("line {number}"));
    }
    assert_eq!(events.len(), 301);
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_says_what_it_serves_and_that_it_is_well() {
    use tonic_health::pb::health_check_response::ServingStatus;
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

    let d = Deployment::standalone(1).await;
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", d.grpc())).unwrap();
    let channel = endpoint.connect().await.unwrap();
    let mut health = HealthClient::new(channel.clone());
    for service in ["", "foghorn.v1.Publisher"] {
        let answer = health.check(HealthCheckRequest { service: service.to_owned() }).await.unwrap();
        assert_eq!(answer.into_inner().status(), ServingStatus::Serving, "{service}");
    }
    let unknown = health.check(HealthCheckRequest { service: "foghorn.v1.Nothing".to_owned() }).await;
    assert_eq!(unknown.unwrap_err().code(), tonic::Code::NotFound);

    let mut reflection = ServerReflectionClient::new(channel);
    let question = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::FileContainingSymbol("foghorn.v1.Publisher".to_owned())),
    };
    let answers = reflection.server_reflection_info(futures::stream::iter([question])).await.unwrap();
    let answer = answers.into_inner().message().await.unwrap().unwrap();
    let Some(MessageResponse::FileDescriptorResponse(files)) = answer.message_response else {
        panic!("no description: {answer:?}");
    };
    assert!(
        files
            .file_descriptor_proto
            .iter()
            .any(|file| { String::from_utf8_lossy(file).contains("PublishStream") })
    );
}
