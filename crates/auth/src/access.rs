//! Who may listen to what, and publish where. Pure: policies and what a token says.
//!
//! **Listening** to a pattern is granted when every policy that holds for some channel under it grants it:
//!
//! - `public`: to anybody.
//! - `authenticated`: to a credential whose `foghorn.subscribe` has a pattern that covers what is asked. One
//!   without that claim is granted single channels, no wildcards.
//! - `owner`: to the subject of that name, whatever any claim says.
//! - `webhook`: to a credential whose `foghorn.subscribe` covers what is asked, of channels under `user.` to their
//!   owner, and else to whom the [webhook](crate::webhook) allows it.
//! - Where a policy says nothing, it is `authenticated`; of channels under `user.` it is their owner, or a
//!   claim that covers them. Of those only policies say something whose pattern is under `user.` too.
//!
//! **Publishing** is granted to a credential whose `foghorn.publish` covers the channel; where the channel's policy is
//! `webhook` also to whom that allows it; and to nobody else.

use std::sync::Arc;

use foghorn_core::channel::Channel;
use foghorn_core::pattern::Pattern;
use foghorn_core::policy::{Access, Policies, Policy};

use crate::refusal::Refusal;
use crate::token::Identity;

pub(crate) const LISTENING: &str = "listening to";
pub(crate) const PUBLISHING: &str = "publishing on";

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// Nobody was asked, on purpose: everything is allowed.
    Unchecked,
    /// Without a credential.
    Anonymous,
    /// With a verified token.
    Known(Arc<Identity>),
}

impl Caller {
    /// What its token says, if it has one.
    pub fn identity(&self) -> Option<&Arc<Identity>> {
        match self {
            Caller::Known(identity) => Some(identity),
            Caller::Unchecked | Caller::Anonymous => None,
        }
    }

    /// Whose token it has, if it has one.
    pub fn subject(&self) -> Option<&str> {
        self.identity().map(|identity| identity.subject.as_str())
    }

    /// What it listens to without asking: the channel that is for everyone, where policies let it, and its
    /// own.
    pub fn implied(&self, policies: &Policies) -> Vec<Pattern> {
        let everyone = Channel::broadcast();
        let access = policies.of(everyone.as_str()).access;
        let (hears, own) = match self {
            Caller::Unchecked => (true, None),
            Caller::Anonymous => (access == Some(Access::Public), None),
            Caller::Known(identity) => (true, identity.own.as_ref()),
        };
        hears.then_some(&everyone).into_iter().chain(own).map(Pattern::from).collect()
    }

    /// Whether it may see what only operators are to see.
    pub fn check_admin(&self) -> Result<(), Refusal> {
        match self {
            Caller::Unchecked => Ok(()),
            Caller::Anonymous => Err(Refusal::NoCredential("this path".to_owned())),
            Caller::Known(identity) if identity.admin => Ok(()),
            Caller::Known(_) => Err(Refusal::Denied { what: "what needs the role", to: "admin".to_owned() }),
        }
    }
}

/// What claims and policies say together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Granted {
    /// They grant it.
    Yes,
    /// They leave it to the webhook.
    IfTheWebhookAllows,
}

/// What one policy says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Says {
    Yes,
    No,
    AskTheWebhook,
}

pub(crate) fn may_listen(caller: &Caller, asked: &Pattern, policies: &Policies) -> Result<Granted, Refusal> {
    // What is heard unasked may be asked for.
    if *caller == Caller::Unchecked || caller.implied(policies).contains(asked) {
        return Ok(Granted::Yes);
    }
    let confined = caller.identity().and_then(|identity| identity.confined.as_ref());
    if confined.is_some_and(|named| !named.iter().any(|pattern| pattern.covers(asked))) {
        return Err(Refusal::Denied { what: "with its ticket listening to", to: asked.to_string() });
    }
    let mut granted = Granted::Yes;
    for policy in policies.intersecting(asked) {
        match caller.identity().map_or_else(|| to_nobody(policy, asked), |known| known.hears(policy, asked)) {
            Says::Yes => {}
            Says::AskTheWebhook => granted = Granted::IfTheWebhookAllows,
            Says::No => return Err(not_listening(caller, asked)),
        }
    }
    Ok(granted)
}

/// What those who may not listen are told.
pub(crate) fn not_listening(caller: &Caller, asked: &Pattern) -> Refusal {
    match caller {
        Caller::Known(_) => Refusal::Denied { what: LISTENING, to: asked.to_string() },
        _ => Refusal::NoCredential(format!("{LISTENING} {asked}")),
    }
}

pub(crate) fn may_publish(
    caller: &Caller,
    channel: &Channel,
    policies: &Policies,
) -> Result<Granted, Refusal> {
    let asked = Pattern::from(channel);
    match caller {
        Caller::Unchecked => return Ok(Granted::Yes),
        Caller::Known(identity) if covered(&identity.publish, &asked) => return Ok(Granted::Yes),
        Caller::Known(_) | Caller::Anonymous => {}
    }
    if access_of(policies.of(channel.as_str()), &asked) == Some(Access::Webhook) {
        return Ok(Granted::IfTheWebhookAllows);
    }
    Err(not_publishing(caller, channel))
}

/// What those who may not publish are told.
pub(crate) fn not_publishing(caller: &Caller, channel: &Channel) -> Refusal {
    match caller {
        Caller::Known(_) => Refusal::Denied { what: PUBLISHING, to: channel.to_string() },
        _ => Refusal::NoCredential("publishing".to_owned()),
    }
}

/// Without looking at any channel; with `webhook` there is one to be asked about some.
pub(crate) fn may_publish_something(caller: &Caller, webhook: bool) -> Result<(), Refusal> {
    match caller {
        Caller::Unchecked => Ok(()),
        Caller::Anonymous | Caller::Known(_) if webhook => Ok(()),
        Caller::Anonymous => Err(Refusal::NoCredential("publishing".to_owned())),
        Caller::Known(identity) if identity.publish.as_ref().is_some_and(|granted| !granted.is_empty()) => {
            Ok(())
        }
        Caller::Known(_) => Err(Refusal::Denied { what: PUBLISHING, to: "any channel".to_owned() }),
    }
}

/// What a policy says of who may listen. Of users' channels only those say something that are about users:
/// whoever calls everything public doesn't mean everybody's mail.
fn access_of(policy: &Policy, asked: &Pattern) -> Option<Access> {
    let users = Pattern::users();
    policy.access.filter(|_| users.covers(&policy.pattern) || !asked.intersects(&users))
}

/// What a policy says to those without a credential.
fn to_nobody(policy: &Policy, asked: &Pattern) -> Says {
    match access_of(policy, asked) {
        Some(Access::Public) => Says::Yes,
        Some(Access::Webhook) => Says::AskTheWebhook,
        Some(Access::Authenticated | Access::Owner) | None => Says::No,
    }
}

impl Identity {
    fn hears(&self, policy: &Policy, asked: &Pattern) -> Says {
        let users = Pattern::users();
        let grants = match access_of(policy, asked) {
            Some(Access::Public) => true,
            Some(Access::Owner) => self.owns(asked),
            Some(Access::Authenticated) => self.reaches(asked),
            Some(Access::Webhook) if covered(&self.subscribe, asked) || self.owns(asked) => true,
            Some(Access::Webhook) => return Says::AskTheWebhook,
            None if policy.pattern.intersects(&users) && asked.intersects(&users) => {
                self.owns(asked) || covered(&self.subscribe, asked)
            }
            None => self.reaches(asked),
        };
        if grants { Says::Yes } else { Says::No }
    }

    /// Within what the token says, if it says something; else any one channel.
    fn reaches(&self, asked: &Pattern) -> bool {
        match &self.subscribe {
            Some(_) => covered(&self.subscribe, asked),
            None => asked.channel().is_some(),
        }
    }

    /// Whether all of it is the subject's own. Compared token by token: a subject is a name, never a pattern.
    fn owns(&self, asked: &Pattern) -> bool {
        let Some(own) = &self.own else { return false };
        let mut theirs = asked.as_str().split('.');
        own.as_str().split('.').all(|token| theirs.next() == Some(token))
    }
}

fn covered(granted: &Option<Vec<Pattern>>, asked: &Pattern) -> bool {
    granted.iter().flatten().any(|pattern| pattern.covers(asked))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn p(text: &str) -> Pattern {
        Pattern::parse(text).unwrap()
    }

    fn known(subject: &str, subscribe: Option<&[&str]>) -> Caller {
        let list = |patterns: &[&str]| patterns.iter().map(|text| p(text)).collect::<Vec<_>>();
        Caller::Known(Arc::new(Identity {
            own: Channel::user(subject).ok(),
            subject: subject.to_owned(),
            subscribe: subscribe.map(list),
            ..Identity::default()
        }))
    }

    fn policies(of: &[(&str, Option<Access>)]) -> Policies {
        let policy = |(pattern, access): &(&str, Option<Access>)| Policy {
            access: *access,
            ..Policy::new(p(pattern))
        };
        Policies::new(of.iter().map(policy).collect()).unwrap()
    }

    fn hears(caller: &Caller, asked: &str, policies: &Policies) -> bool {
        may_listen(caller, &p(asked), policies) == Ok(Granted::Yes)
    }

    #[test]
    fn policies_and_claims_grant_together() {
        use Access::{Authenticated, Owner, Public};
        let policies = policies(&[
            ("news.>", Some(Public)),
            ("news.members.>", Some(Authenticated)),
            ("user.*", Some(Owner)),
            ("orders.>", None),
        ]);
        let nobody = Caller::Anonymous;
        let (ann, reader) = (known("ann", None), known("ann", Some(&["orders.eu.>", "user.>"])));
        let everything = known("bob", Some(&[">"]));
        for (caller, asked, expected) in [
            (&nobody, "news.a", true),
            (&nobody, "news.*", true),
            (&nobody, "news.>", false),
            (&nobody, "news.a.*", true),
            (&nobody, "news.members.a", false),
            (&nobody, "orders.eu", false),
            (&ann, "orders.eu", true),
            (&ann, "orders.*", false),
            (&ann, "news.a.*", true),
            (&ann, "user.ann", true),
            (&ann, "user.bob", false),
            (&ann, "user.*", false),
            (&ann, ">", false),
            (&reader, "orders.eu.1", true),
            (&reader, "orders.eu.*", true),
            (&reader, "orders.us.1", false),
            (&reader, "orders.*.1", false),
            (&reader, "other", false),
            (&reader, "news.a", true),
            (&reader, "user.bob", false),
            (&everything, "orders.>", true),
            // The policy says owner, and means it.
            (&everything, ">", false),
            (&everything, "user.ann", false),
        ] {
            assert_eq!(hears(caller, asked, &policies), expected, "{caller:?} {asked}");
        }
        let open = hears(&Caller::Unchecked, ">", &policies);
        assert!(open);
    }

    #[test]
    fn without_policies_a_users_channel_is_the_users_and_that_of_whose_claim_names_it() {
        let none = Policies::default();
        let (ann, support) = (known("ann", None), known("sam", Some(&["user.*"])));
        for (caller, asked, expected) in [
            (&ann, "user.ann", true),
            (&ann, "user.ann.mail", true),
            (&ann, "user.ann.>", true),
            (&ann, "user.bob", false),
            (&ann, "user.*", false),
            (&ann, "*.bob", false),
            (&support, "user.ann", true),
            (&support, "user.*", true),
            (&support, "user.ann.mail", false),
            (&support, "user.sam", true),
            (&Caller::Anonymous, "user.ann", false),
        ] {
            assert_eq!(hears(caller, asked, &none), expected, "{caller:?} {asked}");
        }
    }

    #[test]
    fn a_policy_for_everything_opens_no_users_channel() {
        for access in [Access::Public, Access::Authenticated] {
            let everything = policies(&[(">", Some(access))]);
            let (nobody, ann) = (Caller::Anonymous, known("ann", None));
            assert_eq!(hears(&nobody, "news.a", &everything), access == Access::Public);
            assert!(hears(&ann, "news.a", &everything) && hears(&ann, "user.ann", &everything));
            for asked in ["user.bob", "user.*", "*.bob", ">"] {
                assert!(!hears(&nobody, asked, &everything) && !hears(&ann, asked, &everything), "{asked}");
            }
        }
        let open = policies(&[("user.lobby", Some(Access::Public))]);
        assert!(hears(&Caller::Anonymous, "user.lobby", &open), "but one that is about users does");
    }

    #[test]
    fn a_subject_that_looks_like_a_pattern_is_a_name_like_any_other() {
        let owned = policies(&[("user.>", Some(Access::Owner))]);
        for subject in [">", "*", "*.>", "ann.>", "", "bob.x", " "] {
            let caller = known(subject, None);
            for asked in ["user.>", "user.*", "user.ann", "user.bob", "user.bob.x", "user.*.>", ">", "*.ann"]
            {
                assert!(!hears(&caller, asked, &owned), "{subject:?} {asked}");
            }
            if let Ok(own) = Channel::user(subject) {
                assert!(hears(&caller, own.as_str(), &owned), "{subject:?}");
            }
        }
        assert!(!hears(&known("ann", None), &Channel::user(">").unwrap().to_string(), &owned));
    }

    #[test]
    fn publishing_needs_a_claim_that_covers_the_channel() {
        let channel = |text: &str| Channel::parse(text.to_owned()).unwrap();
        let publisher = |patterns: Option<&[&str]>| {
            let publish = patterns.map(|patterns| patterns.iter().map(|text| p(text)).collect());
            Caller::Known(Arc::new(Identity { publish, ..Identity::default() }))
        };
        let may_publish = |caller: &Caller, name| may_publish(caller, &channel(name), &Policies::default());
        assert!(may_publish(&publisher(Some(&["orders.>"])), "orders.eu").is_ok());
        assert_eq!(
            may_publish(&publisher(Some(&["orders.>"])), "orders"),
            Err(Refusal::Denied { what: "publishing on", to: "orders".to_owned() })
        );
        assert!(may_publish(&publisher(Some(&[])), "a").is_err());
        assert!(may_publish(&publisher(None), "a").is_err());
        assert!(matches!(may_publish(&Caller::Anonymous, "a"), Err(Refusal::NoCredential(_))));
        assert!(may_publish(&Caller::Unchecked, "a").is_ok());
    }

    #[test]
    fn a_webhook_is_asked_where_a_policy_says_so_and_no_other_refuses() {
        use Access::{Authenticated, Owner, Public, Webhook};
        let policies = policies(&[
            ("rooms.>", Some(Webhook)),
            ("rooms.staff.>", Some(Authenticated)),
            ("rooms.lobby", Some(Public)),
            ("user.>", Some(Owner)),
            ("user.shared.>", Some(Webhook)),
        ]);
        let (ann, reader) = (known("ann", None), known("ann", Some(&["rooms.1", "rooms.staff.>"])));
        let (yes, ask) = (Ok(Granted::Yes), Ok(Granted::IfTheWebhookAllows));
        for (caller, asked, expected) in [
            (&Caller::Anonymous, "rooms.1", &ask),
            (&Caller::Anonymous, "rooms.lobby", &yes),
            (&Caller::Unchecked, "rooms.1", &yes),
            // Of a pattern every policy has its say: where one refuses, nobody is asked.
            (&ann, "rooms.*", &ask),
            (&reader, "rooms.*", &ask),
            (&ann, "rooms.1", &ask),
            (&reader, "rooms.1", &yes),
            (&ann, "user.shared.x", &ask),
            (&known("shared", None), "user.shared.x", &yes),
        ] {
            assert_eq!(&may_listen(caller, &p(asked), &policies), expected, "{caller:?} {asked}");
        }
        for asked in ["rooms.>", "user.bob", "user.*", ">", "elsewhere.*"] {
            assert!(may_listen(&ann, &p(asked), &policies).is_err(), "{asked}");
        }
        let channel = |text: &str| Channel::parse(text.to_owned()).unwrap();
        let publish = |caller: &Caller, name| may_publish(caller, &channel(name), &policies);
        assert_eq!(publish(&ann, "rooms.1"), ask);
        assert_eq!(publish(&Caller::Anonymous, "rooms.1"), ask);
        for name in ["rooms.lobby", "rooms.staff.1", "user.ann", "elsewhere"] {
            assert!(publish(&ann, name).is_err() && publish(&Caller::Anonymous, name).is_err(), "{name}");
        }
        assert!(may_publish_something(&ann, true).is_ok() && may_publish_something(&ann, false).is_err());
        let everything = self::policies(&[(">", Some(Webhook))]);
        for asked in ["user.bob", "*.bob", ">"] {
            assert!(may_listen(&ann, &p(asked), &everything).is_err(), "{asked}: it is not about users");
        }
        assert!(may_publish(&ann, &channel("user.bob"), &everything).is_err());
    }

    #[test]
    fn everyones_channel_and_the_own_one_come_unasked() {
        let public = policies(&[("broadcast", Some(Access::Public))]);
        let said = |caller: &Caller, policies: &Policies| -> Vec<String> {
            caller.implied(policies).iter().map(ToString::to_string).collect()
        };
        let none = Policies::default();
        assert_eq!(said(&Caller::Unchecked, &none), ["broadcast"]);
        assert!(said(&Caller::Anonymous, &none).is_empty());
        assert_eq!(said(&Caller::Anonymous, &public), ["broadcast"]);
        assert_eq!(said(&known("ann", Some(&["x"])), &none), ["broadcast", "user.ann"]);
        assert_eq!(said(&known(">", None), &none), ["broadcast", "user.~Pg"]);
    }

    fn any_pattern() -> impl Strategy<Value = String> {
        let token = prop_oneof![Just("a"), Just("user"), Just("b"), Just("*")];
        (prop::collection::vec(token, 1..4), any::<bool>()).prop_map(|(mut tokens, tail)| {
            if tail {
                tokens.push(">");
            }
            tokens.join(".")
        })
    }

    fn any_access() -> impl Strategy<Value = Option<Access>> {
        prop_oneof![
            Just(None),
            Just(Some(Access::Public)),
            Just(Some(Access::Authenticated)),
            Just(Some(Access::Owner)),
            Just(Some(Access::Webhook)),
        ]
    }

    /// Every name of up to four tokens that patterns of these could tell apart.
    fn names() -> Vec<String> {
        let mut names: Vec<String> = vec![String::new()];
        let mut all = Vec::new();
        for _ in 0..4 {
            names = names
                .iter()
                .flat_map(|name| {
                    ["a", "b", "user", "c"].map(|token| {
                        if name.is_empty() { token.to_owned() } else { format!("{name}.{token}") }
                    })
                })
                .collect();
            all.extend(names.iter().cloned());
        }
        all
    }

    /// Whether one channel may be heard, said anew and one by one.
    fn one(caller: &Caller, channel: &str, policies: &Policies) -> bool {
        let policy = policies.of(channel);
        let tokens: Vec<&str> = channel.split('.').collect();
        let of_a_user = tokens.len() > 1 && tokens[0] == "user";
        let access = policy.access.filter(|_| !of_a_user || policy.pattern.as_str().starts_with("user."));
        let Caller::Known(identity) = caller else { return access == Some(Access::Public) };
        let own = of_a_user && tokens[1] == identity.subject;
        if own && tokens.len() == 2 {
            return true;
        }
        let claim = identity.subscribe.as_ref().map(|list| list.iter().any(|p| p.matches(channel)));
        match access {
            Some(Access::Public) => true,
            Some(Access::Owner) => own,
            Some(Access::Authenticated) => claim.unwrap_or(true),
            None if of_a_user => own || claim == Some(true),
            None => claim.unwrap_or(true),
            Some(Access::Webhook) => own || claim == Some(true),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// No pattern gives anybody a channel that they would not be given by its name, and a name is judged
        /// by its own policy alone.
        #[test]
        fn a_pattern_grants_nothing_that_its_channels_do_not(
            rules in prop::collection::vec((any_pattern(), any_access()), 0..5),
            claims in prop::option::of(prop::collection::vec(any_pattern(), 0..4)),
            is_known in any::<bool>(),
            asked in any_pattern(),
        ) {
            let mut chosen = Vec::new();
            for (pattern, access) in rules {
                let policy = Policy { access, ..Policy::new(p(&pattern)) };
                let with: Vec<Policy> = chosen.iter().cloned().chain([policy]).collect();
                if Policies::new(with.clone()).is_ok() {
                    chosen = with;
                }
            }
            let policies = Policies::new(chosen).unwrap();
            let claims: Option<Vec<&str>> = claims.as_ref().map(|c| c.iter().map(String::as_str).collect());
            let caller = if is_known { known("a", claims.as_deref()) } else { Caller::Anonymous };
            let asked = p(&asked);
            let granted = may_listen(&caller, &asked, &policies) == Ok(Granted::Yes);
            for name in names().iter().filter(|name| asked.matches(name)) {
                let alone = one(&caller, name, &policies);
                prop_assert!(alone || !granted, "{name} under {asked}");
                prop_assert_eq!(hears(&caller, name, &policies), alone, "{}", name);
            }
        }

        /// A credential that says more is granted no less.
        #[test]
        fn more_claims_grant_more(
            claims in prop::collection::vec(any_pattern(), 0..4),
            more in any_pattern(),
            asked in any_pattern(),
            access in any_access(),
        ) {
            let policies = match access {
                Some(Access::Owner) => policies(&[("user.>", access)]),
                _ => policies(&[("a.>", access)]),
            };
            let fewer: Vec<&str> = claims.iter().map(String::as_str).collect();
            let all: Vec<&str> = fewer.iter().copied().chain([more.as_str()]).collect();
            if hears(&known("a", Some(&fewer)), &asked, &policies) {
                prop_assert!(hears(&known("a", Some(&all)), &asked, &policies));
            }
        }
    }
}
