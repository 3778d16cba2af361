//! How many connections a listener bears. More wait in the kernel's queue until one ends.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::watch;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfListener {
    listener: &'static str,
}

/// What a process shows of its listeners. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    open: Family<OfListener, Gauge>,
    most: Family<OfListener, Gauge>,
    full: Family<OfListener, Counter>,
}

impl Metrics {
    /// Registers everything under `foghorn_listener_…`.
    pub fn register(registry: &mut Registry) -> Self {
        let m = Metrics::default();
        let r = registry.sub_registry_with_prefix("foghorn_listener");
        r.register("connections", "Open connections, by listener", m.open.clone());
        r.register(
            "connections_max",
            "Open connections at which a listener accepts no more; alert well before",
            m.most.clone(),
        );
        r.register(
            "full",
            "Times that a listener had as many connections as it bears, so that others had to wait",
            m.full.clone(),
        );
        m
    }

    /// Those of the listener of this name, `most` at a time.
    pub fn listener(&self, name: &'static str, most: usize) -> Connections {
        let of = OfListener { listener: name };
        self.most.get_or_create(&of).set(i64::try_from(most).unwrap_or(i64::MAX));
        let (open, full) = (self.open.get_or_create(&of).clone(), self.full.get_or_create(&of).clone());
        Connections { most, open, full }
    }
}

/// The connections that a listener may have, and where they are counted.
#[derive(Debug, Clone)]
pub struct Connections {
    most: usize,
    open: Gauge,
    full: Counter,
}

impl Connections {
    /// `most` at a time, shown to nobody.
    pub fn up_to(most: usize) -> Self {
        Connections { most, open: Gauge::default(), full: Counter::default() }
    }
}

/// Places for a listener's connections. Only who accepts takes them.
#[derive(Debug)]
pub struct Places {
    open: watch::Sender<usize>,
    connections: Connections,
}

/// A connection's place; dropping it makes room for another.
#[derive(Debug)]
pub struct Open(Arc<Places>);

impl Places {
    /// All free.
    pub fn new(connections: Connections) -> Arc<Self> {
        Arc::new(Places { open: watch::Sender::new(0), connections })
    }

    /// Returns once there is a place.
    pub async fn room(&self) {
        let most = self.connections.most;
        if *self.open.borrow() >= most {
            self.connections.full.inc();
            self.until(|open| open < most).await;
        }
    }

    /// Takes the place that [`room`](Self::room) has found.
    pub fn take(self: &Arc<Self>) -> Open {
        self.open.send_modify(|open| *open += 1);
        self.connections.open.inc();
        Open(self.clone())
    }

    /// Returns once all are free again.
    pub async fn emptied(&self) {
        self.until(|open| open == 0).await;
    }

    async fn until(&self, enough: impl Fn(usize) -> bool) {
        // No error: what sends is here.
        let _none = self.open.subscribe().wait_for(|open| enough(*open)).await.is_err();
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections.open.dec();
        self.0.open.send_modify(|open| *open -= 1);
    }
}
