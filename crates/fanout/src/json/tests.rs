use foghorn_core::event::Ttl;

use super::*;

fn one(body: &str) -> Result<PublishInput, PublishError> {
    let requested = read(body.as_bytes(), 10, None)?;
    assert!(!requested.several);
    requested.events.into_iter().next().unwrap().input
}

#[test]
fn every_key_has_its_place() {
    let input =
        one(r#" {"channel": "a.b", "event": "paid", "data": "x", "id": "7", "ttl": 60, "ack": "durable"} "#)
            .unwrap();
    let expected = PublishInput {
        target: Target::Channel("a.b".into()),
        event: Some("paid".into()),
        data: Bytes::from("x"),
        id: Some("7".into()),
        ttl: Ttl::new(60).ok(),
        ack: Ack::Durable,
        traceparent: None,
    };
    assert_eq!(input, expected);
    let user = one(r#"{"user":"ann","data":"x","event":null,"id":null,"ttl":null,"ack":null}"#).unwrap();
    assert_eq!((user.target, user.event, user.id), (Target::User("ann".into()), None, None));
    assert_eq!(user.ack, Ack::Accepted);
}

#[test]
fn data_goes_out_as_it_came_in() {
    for (given, expected) in [
        (r#""text""#, "text"),
        (r#""a\nb\u00e9\ud83d\ude00""#, "a\nbé😀"),
        (r#""""#, ""),
        ("null", "null"),
        ("true", "true"),
        ("1e400", "1e400"),
        ("12345678901234567890123", "12345678901234567890123"),
        ("-0.10", "-0.10"),
        ("{ \"z\" : 1 ,\n \"a\" : [ 1.0 , \"x  y\" ] }", r#"{"z":1,"a":[1.0,"x  y"]}"#),
        (r#"{"a" : "q\" : \\" , "b":1}"#, r#"{"a":"q\" : \\","b":1}"#),
        (r#"[ "\ud83d\ude00" , "é" ]"#, r#"["\ud83d\ude00","é"]"#),
        ("[ ]", "[]"),
    ] {
        let body = format!(r#"{{"channel":"a","data": {given} }}"#);
        assert_eq!(one(&body).map(|input| input.data), Ok(Bytes::from(expected)), "{given}");
    }
}

#[test]
fn what_is_wrong_is_named() {
    for (body, code, hint) in [
        ("", "bad-json", "the body is empty"),
        ("  \n", "bad-json", "the body is empty"),
        ("{", "bad-json", "line 1 column 1"),
        ("{\"channel\":\"a\",\n\"data\":x}", "bad-json", "line 2 column 8"),
        ("{'channel':'a'}", "bad-json", "line 1 column 2"),
        (r#"{"channel":"a","data":1} x"#, "bad-json", "trailing characters at line 1 column 26"),
        (r#"{"channel":"a","data":1"#, "bad-json", "EOF"),
        (r#"[{"channel":"a","data":1},"#, "bad-json", "EOF"),
        ("hello", "bad-json", "line 1 column 1"),
        ("\"text\"", "bad-event", "must be an object"),
        ("12", "bad-event", "must be an object"),
        (r#"{"channel":"a"}"#, "bad-event", "data: is missing"),
        (r#"{"data":"x"}"#, "bad-event", "channel, channels or user"),
        (r#"{"channel":null,"data":"x"}"#, "bad-event", "channel, channels or user"),
        (r#"{"channel":"a","user":"b","data":"x"}"#, "bad-event", "exactly one"),
        (r#"{"channel":"a","dta":"x"}"#, "bad-event", "did you mean data?"),
        (r#"{"chanel":"a","data":"x"}"#, "bad-event", "did you mean channel?"),
        (r#"{"channel":"a","data":"x","zzz":1}"#, "bad-event", "known are channel"),
        (r#"{"channel":"a","data":"x","data":"y"}"#, "bad-event", "data: is given twice"),
        (r#"{"channel":7,"data":"x"}"#, "bad-event", "channel: must be a string"),
        (r#"{"channels":"a","data":"x"}"#, "bad-event", "channels: must be an array"),
        (r#"{"channels":[],"data":"x"}"#, "bad-event", "channels: is empty"),
        (r#"{"channel":"a","data":"x","event":1}"#, "bad-event", "event: must be a string"),
        (r#"{"channel":"a","data":"x","id":7}"#, "bad-event", "id: must be a string"),
        (r#"{"channel":"a","data":"x","ttl":"60"}"#, "bad-ttl", "whole number"),
        (r#"{"channel":"a","data":"x","ttl":1.5}"#, "bad-ttl", "whole number"),
        (r#"{"channel":"a","data":"x","ttl":-1}"#, "bad-ttl", "whole number"),
        (r#"{"channel":"a","data":"x","ttl":0}"#, "bad-ttl", "from 1 to"),
        (r#"{"channel":"a","data":"x","ack":"durble"}"#, "bad-ack", "accepted (the default) or durable"),
        (r#"{"channel":"a","data":"\ud800"}"#, "not-utf8", "surrogate"),
        (r#"{"channel":"a","data":["\ud800x"]}"#, "not-utf8", "lone surrogate"),
        (r#"{"channel":"a","data":{"\udc00":1}}"#, "not-utf8", "lone surrogate"),
        (r#"{"channel":"\ud800","data":1}"#, "bad-event", "channel: "),
    ] {
        let error = one(body).unwrap_err();
        assert_eq!(error.code, code, "{body}: {error}");
        assert!(error.message.contains(hint), "{body}: {error}");
        assert!(!error.retryable);
    }
    let error = read(b"{\"channel\":\"\xff\"}", 10, None).unwrap_err();
    assert!(error.message.contains("first bad byte is at 12"), "{error}");
    assert_eq!(error.code, "not-utf8");
}

#[test]
fn an_array_has_an_entry_per_event_and_channel() {
    let body = r#"[
        {"channel": "a", "data": 1},
        {"channels": ["b", 2, "c"], "data": 2},
        {"channels": ["d", "e"], "dta": 3},
        7,
        {"channel": "f", "data": 4}
    ]"#;
    let requested = read(body.as_bytes(), 10, None).unwrap();
    assert!(requested.several);
    let shown: Vec<_> = requested
        .events
        .iter()
        .map(|asked| match &asked.input {
            Ok(PublishInput { target: Target::Channel(name), .. }) => (asked.index, name.to_string()),
            Ok(other) => panic!("{other:?}"),
            Err(error) => (asked.index, error.code.to_owned()),
        })
        .collect();
    let expected = [
        (0, "a"),
        (1, "b"),
        (1, "bad-event"),
        (1, "c"),
        (2, "bad-event"),
        (2, "bad-event"),
        (3, "bad-event"),
        (4, "f"),
    ];
    assert_eq!(shown, expected.map(|(index, what)| (index, what.to_owned())));
    let one_object = read(br#"{"channels":["a"],"data":1}"#, 10, None).unwrap();
    assert!(one_object.several, "channels are answered with an array even when there is one");
    assert!(read(b"[]", 10, None).unwrap().events.is_empty());
}

#[test]
fn too_many_events_are_refused_as_a_whole() {
    let event = |n: usize| format!("[{}]", vec![r#"{"channel":"a","data":1}"#; n].join(","));
    assert_eq!(read(event(10).as_bytes(), 10, None).unwrap().events.len(), 10);
    for body in [
        event(11),
        format!(r#"{{"channels":[{}],"data":1}}"#, ["\"a\""; 11].join(",")),
        format!(r#"[{{"channel":"a","data":1}},{{"channels":[{}],"data":1}}]"#, ["\"a\""; 10].join(",")),
    ] {
        let error = read(body.as_bytes(), 10, None).unwrap_err();
        assert_eq!(error.code, "too-many-events");
        assert!(error.message.contains("11 events"), "{error}");
    }
}

#[test]
fn a_long_unknown_key_is_neither_compared_nor_repeated() {
    let body = format!(r#"{{"channel":"a","data":1,"{}":1}}"#, "channels".repeat(1 << 19));
    let error = one(&body).unwrap_err();
    assert!(error.message.contains("known are channel") && error.message.len() < 300, "{}", error.message);
    assert!(error.key.unwrap().len() < 100);
}
