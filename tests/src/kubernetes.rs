//! A Kubernetes API server by script: as much of it as the operator asks for, in the test's own process, and whatever
//! goes wrong with it on command. It keeps ChannelPolicies and Leases, their versions, and who changed what; and pods of
//! gateways, their fleet and events.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

use self::pods::{EVENTS, FLEETS, PODS, Pods};

mod pods;

const GROUP: &str = "/apis/foghorn.dev/v1alpha1/namespaces/push/channelpolicies";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/push/leases";

/// The server; it ends with the test.
#[derive(Debug, Clone)]
pub struct ApiServer {
    address: String,
    state: Arc<Mutex<State>>,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    version: u64,
    policies: BTreeMap<String, Value>,
    leases: BTreeMap<String, Value>,
    pods: Pods,
    /// What became of the policies: version, type, object.
    events: Vec<(u64, &'static str, Value)>,
    /// Versions before this one are forgotten.
    compacted: u64,
    /// With what a kind of request is answered, and how many times.
    faults: HashMap<&'static str, (u16, usize)>,
    /// How many requests of each kind there were.
    asked: HashMap<&'static str, usize>,
}

type Answer = Response<BoxBody<Bytes, Infallible>>;

impl ApiServer {
    /// Begins to answer on a free port.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let server = ApiServer { address, state: Arc::default(), changed: watch::Sender::new(0) };
        let answering = server.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let server = answering.clone();
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        let server = server.clone();
                        async move { Ok::<_, Infallible>(server.answer(request).await) }
                    });
                    // A client that goes away is none of the test's business.
                    let connection = hyper::server::conn::http1::Builder::new();
                    drop(connection.serve_connection(TokioIo::new(socket), service).await);
                });
            }
        });
        server
    }

    /// Writes a configuration that leads here; what `KUBECONFIG` is to be.
    ///
    /// # Panics
    ///
    /// When it can't be written.
    #[must_use]
    pub fn kubeconfig(&self, folder: &Path) -> String {
        let path = folder.join("kubeconfig");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{ "name": "test", "cluster": { "server": format!("http://{}", self.address) } }],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test", "namespace": "push" } }],
            "users": [{ "name": "test", "user": {} }],
        });
        std::fs::write(&path, config.to_string()).expect("the folder can be written");
        path.display().to_string()
    }

    /// Creates or changes an object. `day` is when it was created.
    pub fn apply(&self, name: &str, day: u32, spec: &Value) {
        let mut state = self.state.lock();
        let before = state.policies.get(name);
        let generation =
            before.map_or(0, |object| object["metadata"]["generation"].as_u64().unwrap_or_default());
        let status = before.map_or(Value::Null, |object| object["status"].clone());
        let mut object = json!({
            "apiVersion": "foghorn.dev/v1alpha1", "kind": "ChannelPolicy", "spec": spec,
            "metadata": {
                "name": name, "namespace": "push", "uid": name, "generation": generation + 1,
                "creationTimestamp": format!("2026-01-{day:02}T00:00:00Z"),
            },
        });
        if !status.is_null() {
            object["status"] = status;
        }
        self.put(&mut state, if generation == 0 { "ADDED" } else { "MODIFIED" }, object);
    }

    /// Deletes an object.
    pub fn delete(&self, name: &str) {
        let mut state = self.state.lock();
        if let Some(object) = state.policies.remove(name) {
            state.version += 1;
            let version = state.version;
            state.events.push((version, "DELETED", object));
            self.changed.send_replace(version);
        }
    }

    /// Answers so many requests of a kind (`list`, `watch`, `status`, `lease`, `fleet`, `pods`,
    /// `event`) with an error.
    pub fn fail(&self, kind: &'static str, code: u16, times: usize) {
        self.state.lock().faults.insert(kind, (code, times));
    }

    /// Forgets all versions before now.
    pub fn compact(&self) {
        let mut state = self.state.lock();
        state.version += 1;
        state.compacted = state.version;
        state.events.clear();
        self.changed.send_replace(state.version);
    }

    /// How many requests of a kind there were.
    #[must_use]
    pub fn asked(&self, kind: &str) -> usize {
        self.state.lock().asked.get(kind).copied().unwrap_or_default()
    }

    /// A condition of an object: its status, reason and message; none if it has none.
    #[must_use]
    pub fn condition(&self, name: &str, kind: &str) -> Option<(String, String, String)> {
        let state = self.state.lock();
        let object = state.policies.get(name)?;
        // Of this generation, or it says nothing of what is there.
        let conditions = object["status"]["conditions"].as_array()?;
        let found = conditions.iter().find(|condition| condition["type"] == kind)?;
        (found["observedGeneration"] == object["metadata"]["generation"]).then_some(())?;
        let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
        Some((text("status"), text("reason"), text("message")))
    }

    /// Who holds a lease.
    #[must_use]
    pub fn holder(&self, lease: &str) -> Option<String> {
        let state = self.state.lock();
        Some(state.leases.get(lease)?["spec"]["holderIdentity"].as_str()?.to_owned())
    }

    /// Has somebody else hold a lease.
    pub fn give_lease(&self, lease: &str, holder: &str) {
        let mut state = self.state.lock();
        state.version += 1;
        let version = state.version.to_string();
        if let Some(object) = state.leases.get_mut(lease) {
            object["spec"]["holderIdentity"] = json!(holder);
            object["metadata"]["resourceVersion"] = json!(version);
        }
    }

    fn put(&self, state: &mut State, what: &'static str, mut object: Value) {
        state.version += 1;
        object["metadata"]["resourceVersion"] = json!(state.version.to_string());
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        state.events.push((state.version, what, object.clone()));
        state.policies.insert(name, object);
        self.changed.send_replace(state.version);
    }

    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let (parts, body) = request.into_parts();
        let (path, query) = (parts.uri.path().to_owned(), parts.uri.query().unwrap_or_default().to_owned());
        let kind = match (&parts.method, path.as_str()) {
            (_, path) if path.starts_with(LEASES) => "lease",
            (_, path) if path.starts_with(FLEETS) => "fleet",
            (_, path) if path.starts_with(PODS) => "pods",
            (_, path) if path.starts_with(EVENTS) => "event",
            (_, path) if path.ends_with("/status") => "status",
            _ if query.contains("watch=") => "watch",
            _ => "list",
        };
        if let Some(code) = self.state.lock().fault(kind) {
            return refused(code);
        }
        let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let name =
            |under: &str| path.strip_prefix(under).unwrap_or_default().trim_start_matches('/').to_owned();
        match kind {
            "fleet" => return self.fleet(&parts.method, &name(FLEETS), &body),
            "pods" => return self.pods(&parts.method, &name(PODS), &query, &body),
            "event" => return self.event(&body),
            _ => {}
        }
        match (kind, path.strip_prefix(LEASES), path.strip_prefix(GROUP)) {
            ("lease", Some(rest), _) => self.lease(&parts.method, rest.trim_start_matches('/'), body),
            ("status", _, Some(rest)) => {
                self.status(rest.trim_start_matches('/').trim_end_matches("/status"), &body)
            }
            ("watch", _, Some("")) => self.watch(key(&query, "resourceVersion").parse().unwrap_or_default()),
            ("list", _, Some("")) => self.list(&query),
            _ => refused(404),
        }
    }

    fn list(&self, query: &str) -> Answer {
        let state = self.state.lock();
        let limit = key(query, "limit").parse().unwrap_or(usize::MAX);
        let from = key(query, "continue").parse().unwrap_or(0);
        let items: Vec<_> = state.policies.values().skip(from).take(limit).collect();
        let more = if from + items.len() < state.policies.len() {
            (from + items.len()).to_string()
        } else {
            String::new()
        };
        answered(&json!({
            "apiVersion": "foghorn.dev/v1alpha1", "kind": "ChannelPolicyList", "items": items,
            "metadata": { "resourceVersion": state.version.to_string(), "continue": more },
        }))
    }

    fn status(&self, name: &str, patch: &Value) -> Answer {
        let mut state = self.state.lock();
        let Some(mut object) = state.policies.get(name).cloned() else { return refused(404) };
        object["status"] = patch["status"].clone();
        self.put(&mut state, "MODIFIED", object.clone());
        answered(&object)
    }

    fn watch(&self, after: u64) -> Answer {
        let server = self.clone();
        let changes = self.changed.subscribe();
        let lines = stream::unfold((server, changes, after), |(server, mut changes, after)| async move {
            loop {
                let found = server.state.lock().event_after(after);
                if let Some((version, line)) = found {
                    let frame = Frame::data(Bytes::from(format!("{line}\n")));
                    return Some((Ok::<_, Infallible>(frame), (server, changes, version)));
                }
                changes.changed().await.ok()?;
            }
        });
        Response::new(BodyExt::boxed(StreamBody::new(
            Box::pin(lines) as std::pin::Pin<Box<dyn futures::Stream<Item = _> + Send + Sync>>
        )))
    }

    fn lease(&self, method: &Method, name: &str, mut object: Value) -> Answer {
        let mut state = self.state.lock();
        let given = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let known = state.leases.get(if name.is_empty() { given.as_str() } else { name }).cloned();
        match (method, known) {
            (&Method::GET, Some(lease)) => return answered(&lease),
            (&Method::GET | &Method::PUT, None) => return refused(404),
            (&Method::POST, Some(_)) => return refused(409),
            (&Method::PUT, Some(lease))
                if lease["metadata"]["resourceVersion"] != object["metadata"]["resourceVersion"] =>
            {
                return refused(409);
            }
            _ => {}
        }
        state.version += 1;
        object["metadata"]["resourceVersion"] = json!(state.version.to_string());
        state.leases.insert(given, object.clone());
        answered(&object)
    }
}

impl State {
    fn fault(&mut self, kind: &'static str) -> Option<u16> {
        *self.asked.entry(kind).or_default() += 1;
        let (code, times) = self.faults.get_mut(kind).filter(|(_, times)| *times > 0)?;
        *times -= 1;
        Some(*code)
    }

    fn event_after(&self, after: u64) -> Option<(u64, Value)> {
        if after < self.compacted {
            let gone = json!({ "type": "ERROR", "object": failure(410) });
            return Some((u64::MAX, gone));
        }
        let (version, what, object) = self.events.iter().find(|(version, ..)| *version > after)?;
        Some((*version, json!({ "type": what, "object": object })))
    }
}

fn key<'a>(query: &'a str, name: &str) -> &'a str {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.into_iter().find(|(key, _)| *key == name).map_or("", |(_, value)| value)
}

fn failure(code: u16) -> Value {
    let reason = match code {
        403 => "Forbidden",
        404 => "NotFound",
        409 => "Conflict",
        410 => "Expired",
        _ => "InternalError",
    };
    json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "reason": reason,
        "message": format!("by script: {reason}"),
    })
}

fn refused(code: u16) -> Answer {
    let mut answer = answered(&failure(code));
    *answer.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    answer
}

fn answered(value: &Value) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(value.to_string())).boxed());
    answer
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    answer
}
