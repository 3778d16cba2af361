//! Streams as `gzip`, and who reads them: zlib, curl, Node and a browser, event by event and to the end.

use std::process::Stdio;

use foghorn_tests::PATIENCE;
use foghorn_tests::chrome::Chrome;
use foghorn_tests::foghorn::Foghorn;
use foghorn_tests::http::{get, metric, post};
use foghorn_tests::http2::Http2;
use foghorn_tests::sse::{Block, NoBlock, Parser, SseClient};
use foghorn_tests::tls;
use foghorn_tests::wait::until;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::deployment::{Cluster, standalone};
use crate::http2::ephemeral;

const GZIP: [(&str, &str); 1] = [("accept-encoding", "gzip, deflate, br, zstd")];

/// Reads a stream as a script of Node would, and says what came; fails where it isn't one gzip text.
const NODE: &str = "
const stream = require('http').get(process.argv[1], { headers: { 'accept-encoding': 'gzip' } }, response => {
    if (response.headers['content-encoding'] !== 'gzip') process.exit(2);
    const text = response.pipe(require('zlib').createGunzip());
    text.on('data', data => process.stdout.write(data));
    text.on('error', error => { console.error(error); process.exit(3); });
    text.on('end', () => process.exit(0));
});
stream.on('error', () => process.exit(4));
";

async fn publish(server: &Foghorn, event: &Value) {
    let reply = post(&server.url("/api/publish"), event).await.unwrap();
    assert_eq!(reply.status, 200, "{}", reply.body);
}

/// Text of this length that becomes about half as long.
fn digits(length: usize) -> String {
    std::iter::repeat_with(|| fastrand::digit(16)).take(length).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn data_that_a_policy_has_compressed_are_the_same_by_every_way_and_unpack_to_what_was_published() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("foghorn.toml");
    std::fs::write(&config, "[[policy]]\npattern = \"packed.>\"\ncompress_data_from = 1024\n").unwrap();
    let cluster = Cluster::start(1, config.to_str().unwrap()).await;
    cluster.ready().await;
    let (gateways, fanout) = (&cluster.gateways, &cluster.fanouts[0]);
    let topics = "channels=packed.a,plain.a";
    let open = async |server: &Foghorn, query: &str| {
        let url = server.url(&format!("/api/events?{topics}{query}"));
        SseClient::connect(&url, &[]).await.unwrap()
    };
    let mut live = Vec::new();
    for server in gateways {
        for query in ["", "&envelope=1", "&batch=50"] {
            let mut stream = open(server, query).await;
            stream.collect_until(PATIENCE, |block| block.event_type() == "stream-live").await;
            live.push((query, stream));
        }
    }
    let large = format!("{{\"rows\":\"{}\"}}", "é, 7;".repeat(1000));
    // Would become shorter, but the policy leaves it.
    let short = digits(100).repeat(10);
    for (channel, data) in
        [("packed.a", &large), ("packed.a", &short), ("plain.a", &large), ("packed.a", &"last".to_owned())]
    {
        publish(fanout, &json!({ "channel": channel, "data": data })).await;
    }
    let data = |query: &str, blocks: &[Block]| -> Vec<String> {
        let events = blocks.iter().filter(|block| block.is_event());
        events
            .flat_map(|block| match (query, block.event_type()) {
                ("", "message") => vec![block.data.clone().unwrap()],
                ("&envelope=1", "message") => vec![block.json()["data"].as_str().unwrap().to_owned()],
                (_, "batch") => {
                    let events = block.json().as_array().unwrap().clone();
                    events.iter().map(|event| event["data"].as_str().unwrap().to_owned()).collect()
                }
                _ => Vec::new(),
            })
            .collect()
    };
    let mut heard = Vec::new();
    for (query, mut stream) in live {
        let blocks = stream
            .collect_until(PATIENCE, |block| block.data.as_deref().is_some_and(|data| data.contains("last")))
            .await;
        heard.push(data(query, &blocks));
    }
    let expected = heard[0].clone();
    assert_eq!((expected.len(), &expected[1..]), (4, &[short, large.clone(), "last".to_owned()][..]));
    assert_eq!(heard, vec![expected.clone(); 6], "live, in each form, at each gateway");
    // The guide's own way to read it.
    let packed: Value = serde_json::from_str(&expected[0]).unwrap();
    assert_eq!((packed.as_object().unwrap().len(), &packed["compressed"]), (2, &json!(true)));
    assert!(expected[0].len() < large.len() / 10);
    let unpack = "process.stdout.write(require('zlib').gunzipSync(Buffer.from(process.argv[1], 'base64')))";
    let payload = packed["payload"].as_str().unwrap();
    let text = Command::new("node").args(["-e", unpack, payload]).output().await.unwrap().stdout;
    assert_eq!(String::from_utf8(text).unwrap(), large);
    // Replayed, from a ring and, at a gateway that has just begun, from the log; and as history.
    for server in gateways {
        for query in ["", "&envelope=1", "&batch=50"] {
            let mut stream = open(server, &format!("{query}&since=10m")).await;
            let is_last = |block: &Block| block.data.as_deref().is_some_and(|data| data.contains("last"));
            let blocks = stream.collect_until(PATIENCE, is_last).await;
            assert_eq!(data(query, &blocks), expected, "{query}");
        }
        let history = get(&server.url("/api/channels/packed.a/events")).await.unwrap().body;
        let events = history["events"].as_array().unwrap();
        assert_eq!(events.last().unwrap()["data"], expected[0].as_str(), "{history}");
    }
    let counted = metric(fanout.admin(), "foghorn_fanout_data_compressed_total").await;
    assert!((counted - 1.0).abs() < 0.1, "{counted}");
}

/// A program that reads a stream and says what it reads.
struct Program {
    child: Child,
    parser: Parser,
    heard: Vec<Block>,
}

impl Program {
    fn start(name: &str, arguments: &[&str]) -> Self {
        let child = Command::new(name).args(arguments).stdout(Stdio::piped()).kill_on_drop(true).spawn();
        let (parser, heard) = Default::default();
        Program { child: child.unwrap_or_else(|error| panic!("{name}: {error}")), parser, heard }
    }

    async fn until(&mut self, is_last: impl Fn(&Block) -> bool) {
        let mut bytes = vec![0; 1 << 16];
        while !self.heard.iter().any(&is_last) {
            let output = self.child.stdout.as_mut().unwrap();
            let count = timeout(PATIENCE, output.read(&mut bytes)).await.expect("it is held back").unwrap();
            assert!(count > 0, "it ended: {:?}", self.heard.last());
            self.heard.extend(self.parser.feed(&bytes[..count]));
        }
    }
}

fn is(text: &str) -> impl Fn(&Block) -> bool {
    move |block| block.data.as_deref() == Some(text)
}

#[tokio::test(flavor = "multi_thread")]
async fn zlib_curl_node_and_a_browser_read_a_compressed_stream_event_by_event_and_to_its_end() {
    let server = standalone(&["--ephemeral"], &[]).await;
    let path = "/api/events?channels=news";
    let url = server.url(path);
    let chrome = Chrome::start().await;
    let page = chrome.client();
    page.goto(&server.url("/")).await.unwrap();
    let script = "
        const [path, done] = arguments;
        window.heard = [];
        const source = new EventSource(path);
        source.addEventListener('connected', async () => {
            const answer = await fetch(path);
            window.encoding = answer.headers.get('content-encoding');
            done(window.encoding);
        });
        source.addEventListener('message', ({ data }) => heard.push(data));
    ";
    let encoding = page.execute_async(script, vec![json!(path)]).await.unwrap();
    assert_eq!(encoding, "gzip");
    let mut zlib = SseClient::connect(&url, &GZIP).await.unwrap();
    assert_eq!(zlib.header("content-encoding"), Some("gzip"));
    let mut plain = SseClient::connect(&url, &[]).await.unwrap();
    assert_eq!(plain.header("content-encoding"), None);
    let mut programs = [
        Program::start("curl", &["--silent", "--show-error", "--no-buffer", "--compressed", &url]),
        Program::start("node", &["-e", NODE, &url]),
    ];
    for program in &mut programs {
        program.until(|block| block.event_type() == "stream-live").await;
    }
    for stream in [&mut zlib, &mut plain] {
        stream.collect_until(PATIENCE, |block| block.event_type() == "stream-live").await;
    }
    // One after the other: nothing is held back for what comes next.
    for (number, length) in [10, 5000, 300, 200_000, 1500, 70_000].into_iter().enumerate() {
        let text = format!("{number}:{}", digits(length));
        publish(&server, &json!({ "channel": "news", "data": text })).await;
        for stream in [&mut zlib, &mut plain] {
            stream.collect_until(PATIENCE, is(&text)).await;
        }
        for program in &mut programs {
            program.until(is(&text)).await;
        }
        until("it on the page", PATIENCE, async || {
            let last = page.execute("return heard.at(-1)", Vec::new()).await.unwrap();
            (last == text.as_str()).then_some(())
        })
        .await;
    }
    let (compressed, text) = (zlib.received(), plain.received());
    assert!(compressed < text * 6 / 10, "{compressed} for {text} bytes");

    // Its end is that of one text, checksum included.
    server.sigterm();
    let (blocks, end) = zlib.collect_to_end(PATIENCE).await;
    assert_eq!((blocks.last().unwrap().event_type(), end), ("stream-end", NoBlock::End));
    for program in &mut programs {
        program.until(|block| block.event_type() == "stream-end").await;
        let status = timeout(PATIENCE, program.child.wait()).await.unwrap().unwrap();
        assert!(status.success(), "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_stream_is_the_same_over_tls_and_http2_and_policies_say_what_is_compressed() {
    let folder = tempfile::tempdir().unwrap();
    let variables = tls::variables(folder.path());
    let policies = "
        [[policy]]
        pattern = \"never.*\"
        compress_from = 0
        [[policy]]
        pattern = \"small.*\"
        compress_from = 64
    ";
    let server = ephemeral(folder.path(), policies, &tls::borrowed(&variables)).await;
    let connection = Http2::connect(&server.url("")).await.unwrap();
    let text = "all the same ".repeat(40);
    for (channel, most) in [("small.a", 300), ("small.b", 300), ("never.a", 700), ("other", 700)] {
        let path = format!("/api/events?channels={channel}");
        let mut stream = connection.listen(&path, &GZIP).await.unwrap();
        assert_eq!(stream.header("content-encoding"), Some("gzip"));
        stream.collect_until(PATIENCE, |block| block.event_type() == "stream-live").await;
        let before = stream.received();
        let event = json!({ "channel": channel, "data": text });
        assert_eq!(connection.post("/api/publish", &event).await.unwrap().status, 200);
        stream.collect_until(PATIENCE, is(&text)).await;
        let took = stream.received() - before;
        assert!(took <= most && (most == 300) == (took < 300), "{channel}: {took}");
    }
    // What comes again comes from the ring, compressed for who was there before.
    let mut again = connection.listen("/api/events?channels=small.*&last=5", &GZIP).await.unwrap();
    again.collect_until(PATIENCE, |block| block.event_type() == "stream-live").await;
    server.sigterm();
    let (blocks, end) = again.collect_to_end(PATIENCE).await;
    assert_eq!((blocks.last().unwrap().event_type(), end), ("stream-end", NoBlock::End));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_compression_streams_come_as_they_are() {
    let server = standalone(&["--ephemeral"], &[("FOGHORN_GATEWAY_COMPRESSION", "false")]).await;
    let mut stream = SseClient::connect(&server.url("/api/events/a"), &GZIP).await.unwrap();
    assert_eq!((stream.status(), stream.header("content-encoding")), (200, None));
    assert_eq!(stream.next().await.event_type(), "connected");
}
