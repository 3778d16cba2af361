use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::*;
use crate::serve::{Limits, Preamble, serve};

/// Answers everything with 401, as what it is.
struct Refusing;

impl Handler for Refusing {
    fn handle(
        &self,
        _: Request<Incoming>,
        _: SocketAddr,
    ) -> Pin<Box<dyn Future<Output = Response> + Send + '_>> {
        let problem = Problem::new(StatusCode::UNAUTHORIZED, "unauthenticated", "X").challenge("Bearer");
        Box::pin(async move { problem.into_response() })
    }
}

/// The heads of the answers to requests of these methods and headers.
async fn heads(requests: &[(&str, &str)]) -> Vec<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (_stop, stopped) = watch::channel(false);
    let guard = Guard::new(&[], &["https://app.example".into()]);
    tokio::spawn(serve(
        listener,
        Arc::new(Guarded::new(guard, Arc::new(Refusing))),
        Limits::default(),
        Preamble::default(),
        stopped,
    ));
    let mut heads = Vec::new();
    for (method, more) in requests {
        let mut socket = TcpStream::connect(address).await.unwrap();
        let head = format!("{method} /x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{more}\r\n");
        socket.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        heads.push(answer.split_once("\r\n\r\n").unwrap().0.to_lowercase());
    }
    heads
}

#[tokio::test]
async fn only_a_listed_origin_is_let_read_and_asked_for_no_more_than_is_needed() {
    let preflight = "access-control-request-method: GET\r\naccess-control-request-headers: last-event-id\r\n";
    let (listed, other) = ("Origin: https://app.example\r\n", "Origin: https://evil.example\r\n");
    let heads = heads(&[
        ("OPTIONS", &format!("{listed}{preflight}")),
        ("OPTIONS", &format!("{other}{preflight}")),
        ("OPTIONS", listed),
        ("GET", listed),
        ("GET", other),
        ("GET", "Origin: http://localhost\r\n"),
        ("GET", ""),
    ])
    .await;
    for (head, status) in heads.iter().zip([204, 403, 401, 401, 403, 401, 401]) {
        assert!(head.starts_with(&format!("http/1.1 {status} ")), "{head}");
        assert!(head.contains("vary: origin"), "{head}");
        assert!(!head.contains(": *"), "{head}");
    }
    let allows = |head: &str| {
        head.contains("access-control-allow-origin: https://app.example\r\n")
            && head.contains("access-control-allow-credentials: true")
    };
    assert!(allows(&heads[0]) && allows(&heads[2]) && allows(&heads[3]), "{heads:#?}");
    for words in
        ["-methods: get, post", "-headers: authorization, content-type, last-event-id", "-max-age: 7200"]
    {
        assert!(heads[0].contains(words), "{words}: {}", heads[0]);
        assert!(!heads[3].contains(words), "{words}: {}", heads[3]);
    }
    assert!(
        heads[3].contains("access-control-expose-headers: retry-after, www-authenticate"),
        "{}",
        heads[3]
    );
    for none in [&heads[1], &heads[4], &heads[5], &heads[6]] {
        assert!(!none.contains("access-control-"), "{none}");
    }
}
