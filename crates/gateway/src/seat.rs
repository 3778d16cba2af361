//! A stream's place in its gateway, from its request to its end, whoever serves it meanwhile.

use std::sync::Arc;
use std::time::Duration;

use foghorn_auth::access::Granted;
use foghorn_auth::token::Identity;
use foghorn_core::channel::Channel;
use foghorn_core::pattern::Pattern;
use foghorn_core::policy::Policies;
use foghorn_core::reason::StreamEnd;
use foghorn_core::time::Timestamp;

use crate::client_id::ClientId;
use crate::hub::Hub;
use crate::subscription::Subscription;
use crate::survey::Opened;

/// Counts a stream as open, and says why it ended. Moves with the stream.
#[derive(Debug)]
pub(crate) struct Seat {
    hub: Arc<Hub>,
    client_id: ClientId,
    ended: bool,
    /// The policies by which it was granted what it hears.
    granted_by: Arc<Policies>,
    /// Whether it is the gateway's own, which counts nowhere.
    own: bool,
    opened: Opened,
    /// How long it may last, when that is limited. In a box of its own, as most streams of some gateways have none.
    term: Option<Box<Term>>,
}

/// For how long a stream may last: for as long as the token that it was opened or prolonged with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Term {
    identity: Arc<Identity>,
    /// When it is to be told; none once it was.
    tell: Option<Timestamp>,
}

/// What a stream's term asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// Nothing, for so long at least; none for ever.
    Nothing(Option<Duration>),
    /// Telling that it ends then.
    Telling(Timestamp),
    /// Its end.
    End(StreamEnd),
}

impl Term {
    /// Until its token ends, told so long before.
    pub(crate) fn new(identity: Arc<Identity>, notice: Duration) -> Self {
        Term { tell: Some(identity.expires.minus(notice)), identity }
    }
}

impl Seat {
    /// One more stream of this hub.
    pub(crate) fn take(hub: &Arc<Hub>, client_id: ClientId) -> Self {
        hub.opened(client_id);
        Seat::new(hub, client_id, false)
    }

    /// One more of the gateway's own.
    pub(crate) fn take_own(hub: &Arc<Hub>, client_id: ClientId) -> Self {
        hub.opened_own(client_id);
        Seat::new(hub, client_id, true)
    }

    fn new(hub: &Arc<Hub>, client_id: ClientId, own: bool) -> Self {
        let (granted_by, opened) = (hub.policies(), hub.opened_now());
        Seat { hub: hub.clone(), client_id, ended: false, granted_by, own, opened, term: None }
    }

    /// Whether it is the gateway's own, that no client has.
    pub(crate) fn is_own(&self) -> bool {
        self.own
    }

    /// What it hears was granted by these.
    pub(crate) fn granted_by(&mut self, policies: Arc<Policies>) {
        self.granted_by = policies;
    }

    /// Why it is to end, if policies have changed and no longer grant all that it hears. What they leave to the webhook
    /// is granted by its word, which it is asked for when the client comes back.
    pub(crate) fn withdrawn(&self, subscription: &Subscription) -> Option<StreamEnd> {
        if self.own {
            // No policy is asked about it.
            return None;
        }
        let policies = self.hub.policies();
        let auth = self.hub.auth().filter(|_| !Arc::ptr_eq(&policies, &self.granted_by))?;
        let caller = auth.caller_of(self.identity());
        let hears = |topic: Pattern| match auth.check_policies(&caller, &topic, &policies) {
            Ok(Granted::Yes) => true,
            Ok(Granted::IfTheWebhookAllows) => self.hub.grants.allows(self.client_id, &topic),
            Err(_) => false,
        };
        (!subscription.topics().all(hears)).then_some(StreamEnd::AccessWithdrawn)
    }

    /// The same; a stream that goes on has been granted what it hears by the policies of now, and is present by them.
    pub(crate) fn keep_granted(&mut self, subscription: &Subscription) -> Option<StreamEnd> {
        let policies = self.hub.policies();
        if Arc::ptr_eq(&policies, &self.granted_by) {
            return None;
        }
        let withdrawn = self.withdrawn(subscription);
        if withdrawn.is_none() {
            let subject = self.identity().map(|identity| &*identity.subject);
            self.hub.presence.hears(self.client_id, subject, subscription, &policies);
            self.granted_by = policies;
        }
        withdrawn
    }

    /// Limits how long it may last.
    pub(crate) fn limit(&mut self, term: Option<Term>) {
        self.term = term.map(Box::new);
    }

    /// What its term asks for now. By the time of day, as tokens are.
    pub(crate) fn due(&self) -> Due {
        if let Some(end) = self.due_end() {
            return Due::End(end);
        }
        let Some(term) = &self.term else { return Due::Nothing(None) };
        let (now, ends) = (self.hub.clock.now(), term.identity.expires);
        match term.tell {
            _ if now >= ends => Due::End(StreamEnd::TokenExpired),
            Some(tell) if now >= tell => Due::Telling(ends),
            Some(tell) => Due::Nothing(Some(tell.since(now))),
            None => Due::Nothing(Some(ends.since(now))),
        }
    }

    /// Why it is to end, if it is: an operator has revoked it, or what it was opened with, or its user has opened too many
    /// since, or the webhook's word for what it hears is over.
    pub(crate) fn due_end(&self) -> Option<StreamEnd> {
        let identity = self.term.as_ref().map(|term| &*term.identity);
        if self.hub.revocations.closes(self.client_id.get(), identity) {
            return Some(StreamEnd::Revoked);
        }
        let ousted = self.hub.places.is_ousted(self.client_id).then_some(StreamEnd::Ousted);
        ousted.or_else(|| self.hub.grants.due_end(self.client_id))
    }

    /// It was told when it ends.
    pub(crate) fn told(&mut self) {
        if let Some(term) = &mut self.term {
            term.tell = None;
        }
    }

    /// When it was opened.
    pub(crate) fn opened(&self) -> Timestamp {
        self.hub.opened_at(self.opened)
    }

    /// What the client calls itself by, as it is told in `connected`.
    pub(crate) fn client_id(&self) -> ClientId {
        self.client_id
    }

    /// Whose it is, when that is somebody's: what its newest token says.
    pub(crate) fn identity(&self) -> Option<&Arc<Identity>> {
        self.term.as_ref().map(|term| &term.identity)
    }

    /// The channel that its user hears unasked.
    pub(crate) fn own_channel(&self) -> Option<&Channel> {
        self.identity()?.own.as_ref()
    }

    /// The stream is over.
    pub(crate) fn end(mut self, end: StreamEnd) {
        self.say(end);
    }

    fn say(&mut self, end: StreamEnd) {
        self.ended = true;
        if !self.own {
            self.hub.metrics.ended(end);
        }
        if let (StreamEnd::Revoked, Some(term)) = (end, &self.term) {
            self.hub.revocations.refuse(&term.identity, self.hub.clock.now());
        }
        tracing::debug!(client_id = %self.client_id, reason = end.as_str(), "stream ended");
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if !self.ended {
            self.say(StreamEnd::Internal);
        }
        if self.own {
            self.hub.closed_own(self.client_id);
        } else {
            self.hub.closed(self.client_id);
        }
    }
}
