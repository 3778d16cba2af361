//! Streams that are changed while they are served: before the answer's position by the old set, after it by the new.

use foghorn_core::pattern::Pattern;
use serde_json::json;

use super::*;

const EVENTS: u64 = 600;
const CHANNELS: [&str; 3] = ["a", "b", "c"];

/// What a stream hears from a seq on, `broadcast` aside.
type Set = (u64, Vec<&'static str>);

impl Stage {
    /// Asks for a change as a client does; status and answer.
    async fn change(&self, body: &Value) -> (u16, Value) {
        let mut socket = TcpStream::connect(self.address).await.unwrap();
        let body = body.to_string();
        let request = format!(
            "POST /api/events/subscribe HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(PATIENCE, socket.read_to_string(&mut answer)).await.unwrap().unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or_default())
    }

    /// Has a stream hear these channels; the seq from which it does.
    pub(super) async fn changed(&self, id: &str, channels: &[&str]) -> u64 {
        let (status, answer) = self.change(&json!({ "clientId": id, "channels": channels })).await;
        assert_eq!(status, 200, "{answer}");
        let cursor = Cursor::parse(answer["cursor"].as_str().unwrap()).unwrap();
        cursor.get(Shard::ZERO).unwrap().1
    }
}

impl Client {
    pub(super) fn id(&self) -> String {
        let (.., data) = self.blocks.iter().find(|(event, ..)| event == "connected").unwrap();
        let data: Value = serde_json::from_str(data).unwrap();
        data["clientId"].as_str().unwrap().to_owned()
    }

    /// Reads until it has the position of a seq, or is past it.
    async fn until_at(&mut self, seq: u64) {
        let here = |id: &String| Cursor::parse(id).ok()?.get(Shard::ZERO).map(|(_, at)| at);
        while !self.blocks.iter().any(|(_, id, _)| here(id).is_some_and(|at| at >= seq)) {
            assert!(timeout(PATIENCE, self.read()).await.expect("it stops").unwrap(), "it ended");
        }
    }

    /// The seqs of all events that came.
    fn seqs(&self) -> Vec<u64> {
        self.data().iter().map(|data| data.split(':').next().unwrap().parse().unwrap()).collect()
    }
}

fn owed(sets: &[Set]) -> Vec<u64> {
    let hears = |seq: &u64| {
        let channel = CHANNELS[usize::try_from(*seq % 3).unwrap()];
        let (_, set) = sets.iter().rev().find(|(from, _)| from < seq).unwrap();
        set.iter().any(|topic| Pattern::parse(*topic).unwrap().matches(channel))
    };
    (1..=EVENTS).filter(hears).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_doubled_where_a_stream_begins_to_hear_something_else() {
    // Less than what is sent: whoever stops reading falls behind the ring.
    let stage = Arc::new(Stage::new(4 << 20, Config::default()).await);
    let mut listeners = JoinSet::new();
    for number in 0..12_usize {
        let form = ["", "", "&batch=20", "&envelope=0&heartbeat=1"][number % 4];
        let mut client = stage.listen(&format!("channels=a{form}")).await;
        client.until("stream-live", "").await;
        let (is_slow, stage) = (number % 3 == 2, stage.clone());
        listeners.spawn(async move {
            let id = client.id();
            let mut sets: Vec<Set> = vec![(0, vec!["a"])];
            for step in 1..=8_u64 {
                // Whoever is slow reads nothing: its socket is full by and by.
                while (stage.journal.lock().len() as u64) < step * EVENTS / 10 {
                    if !is_slow {
                        _ = timeout(Duration::from_millis(1), client.read()).await;
                    }
                    tokio::task::yield_now().await;
                }
                let set = [vec!["b", "c"], vec!["*"], vec!["a", "c"], vec!["c"]]
                    [(number + usize::try_from(step).unwrap()) % 4]
                    .clone();
                sets.push((stage.changed(&id, &set).await, set));
            }
            while (stage.journal.lock().len() as u64) < EVENTS {
                tokio::task::yield_now().await;
            }
            // Last of all everything, from wherever it is by then.
            if !is_slow {
                sets.push((stage.changed(&id, &CHANNELS).await, CHANNELS.to_vec()));
            }
            client.until_at(EVENTS).await;
            (client, sets)
        });
    }
    let filling = "x".repeat(30_000);
    for seq in 1..=EVENTS {
        stage.publish(CHANNELS[usize::try_from(seq % 3).unwrap()], &format!("{seq}:{filling}"));
        if seq % 4 == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    let mut behind = 0;
    while let Some(done) = timeout(PATIENCE, listeners.join_next()).await.unwrap() {
        let (client, sets) = done.unwrap();
        assert!(sets.is_sorted_by_key(|(from, _)| *from), "{sets:?}");
        assert_eq!(client.seqs(), owed(&sets), "{sets:?}");
        // Where it goes on is told too, each time.
        for (from, _) in &sets[1..] {
            let is_here = |told: &str| Cursor::parse(told).is_ok_and(|cursor| cursor.of(None) == at(*from));
            assert!(
                client.blocks.iter().any(|(_, told, data)| is_here(told) && data.is_empty()),
                "{from} of {sets:?}"
            );
        }
        behind += usize::from(sets.windows(2).any(|two| two[0].0 == two[1].0));
        assert_eq!((client.told("stream-reset"), client.told("stream-live")), (0, 1));
    }
    assert!(
        behind > 0 && stage.hub.metrics.given_back.get() > 0,
        "some were changed while their sockets were full"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_types_keeps_the_channels_and_one_of_channels_the_types() {
    let stage = Stage::new(1 << 20, Config::default()).await;
    let mut client = stage.listen("channels=a").await;
    client.until("stream-live", "").await;
    stage.in_reactor(1).await;
    let id = client.id();
    stage.publish("a", "1");
    client.until("message", "1").await;
    // What the events of these tests are called is `message`.
    for (body, data) in [
        (json!({ "clientId": id, "events": ["other"] }), None),
        (json!({ "clientId": id, "channels": ["b"] }), None),
        (json!({ "clientId": id, "events": ["other", "message"] }), Some("b")),
        (json!({ "clientId": id, "channels": ["a", "b"], "events": [] }), Some("ab")),
        (json!({ "clientId": id, "channels": [] }), Some("")),
    ] {
        let (status, answer) = stage.change(&body).await;
        assert_eq!(
            (status, &answer["clientId"], &answer["expires"]),
            (200, &json!(id), &Value::Null),
            "{answer}"
        );
        let before = client.data().len();
        for channel in ["a", "b", "broadcast"] {
            stage.publish(channel, channel);
        }
        if data.is_some() {
            client.until("message", "broadcast").await;
            client.blocks.retain(|(_, _, data)| data != "broadcast");
        }
        assert_eq!(client.data()[before..].concat(), data.unwrap_or_default(), "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_cannot_be_made_says_why() {
    let stage = Stage::new(1 << 20, Config::default()).await;
    let mut client = stage.listen("channels=a").await;
    client.until("stream-live", "").await;
    let id = client.id();
    let unknown = format!("{}{}", &id[..31], if id.ends_with('0') { '1' } else { '0' });
    let elsewhere = "0".repeat(32);
    for (body, status, problem) in [
        (json!({ "clientId": elsewhere }), 404, "unknown-stream"),
        (json!({ "clientId": unknown }), 404, "unknown-stream"),
        (json!({ "clientId": "7" }), 400, "bad-subscription"),
        (json!({ "clientId": id, "channel": ["a"] }), 400, "bad-subscription"),
        (json!({ "clientId": id, "events": [""] }), 400, "bad-subscription"),
        (json!({ "clientId": id, "events": vec!["x"; 101] }), 400, "bad-subscription"),
        (json!({ "clientId": id, "channels": ["a..b"] }), 400, "bad-channel"),
        (json!({ "clientId": id, "channels": vec!["a"; 101] }), 400, "too-many-channels"),
        (json!([]), 400, "bad-subscription"),
    ] {
        let (got, answer) = stage.change(&body).await;
        assert_eq!(got, status, "{body}: {answer}");
        assert!(answer["type"].as_str().unwrap().ends_with(problem), "{answer}");
    }
    drop(client);
    stage.open(0).await;
    assert_eq!(stage.change(&json!({ "clientId": id, "channels": ["b"] })).await.0, 404, "it has ended");
    assert!(stage.hub.directory.asked().is_empty());
}
