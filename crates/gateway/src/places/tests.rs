//! Several gateways' places, which reach each other in memory until they are cut off.

use std::sync::Weak;

use bytes::Bytes;
use foghorn_bus::gateways::{Notices, Questions};
use foghorn_telemetry::health::Health;
use futures::future::join_all;
use prometheus_client::registry::Registry;
use tokio::sync::broadcast;
use tokio::task::JoinSet;

use super::*;
use crate::metrics::Metrics;

/// Who can be asked, and what all are told.
struct Net {
    reachable: Mutex<HashMap<GatewayName, Weak<Places>>>,
    notices: broadcast::Sender<Bytes>,
    /// Ends of streams are lost on the way.
    loses_ends: std::sync::atomic::AtomicBool,
    /// Answers to who asks for a place are lost on the way.
    loses_places: std::sync::atomic::AtomicBool,
    /// Who asks for a place is heard late, also when it has given up.
    delays_places: std::sync::atomic::AtomicBool,
}

/// How long comparing takes, so that a lot can happen meanwhile.
const COMPARING: Duration = Duration::from_millis(50);
/// How late who asks for a place is heard.
const DELAYED: Duration = Duration::from_millis(100);

struct Port(Arc<Net>);
struct Heard(broadcast::Receiver<Bytes>);

impl Gateways for Port {
    fn ask(&self, gateway: GatewayName, question: Question) -> Future<'_, Result<Bytes, AskError>> {
        async move {
            if self.0.loses_ends.load(Ordering::SeqCst) && question.body.starts_with(b"{\"ask\":\"ended\"") {
                return Err(AskError::Unavailable("lost".to_owned()));
            }
            if question.body.starts_with(b"{\"ask\":\"compare\"") {
                tokio::time::sleep(COMPARING).await;
            }
            let asked = self.0.reachable.lock().get(&gateway).and_then(Weak::upgrade);
            let asked = asked.ok_or(AskError::Nobody)?;
            tokio::time::sleep(Duration::from_millis(1)).await;
            if self.0.delays_places.load(Ordering::SeqCst) && question.body.starts_with(b"{\"ask\":\"admit\"")
            {
                let answer = tokio::spawn(async move {
                    tokio::time::sleep(DELAYED).await;
                    asked.answer_to(&question.body).await
                });
                return Ok(answer.await.unwrap().into());
            }
            let answer = asked.answer_to(&question.body).await;
            if self.0.loses_places.load(Ordering::SeqCst) && question.body.starts_with(b"{\"ask\":\"admit\"")
            {
                return Err(AskError::Unavailable("lost".to_owned()));
            }
            Ok(answer.into())
        }
        .boxed()
    }

    fn listen(&self, _: GatewayName) -> Future<'_, Result<Box<dyn Questions>, AskError>> {
        futures::future::ready(Err(AskError::Nobody)).boxed()
    }

    fn tell_all(&self, notice: Bytes) -> Future<'_, Result<(), AskError>> {
        _ = self.0.notices.send(notice).is_ok();
        futures::future::ready(Ok(())).boxed()
    }

    fn hear_all(&self) -> Future<'_, Result<Box<dyn Notices>, AskError>> {
        let heard = Box::new(Heard(self.0.notices.subscribe())) as Box<dyn Notices>;
        futures::future::ready(Ok(heard)).boxed()
    }
}

impl Notices for Heard {
    fn next(&mut self) -> Future<'_, Option<Bytes>> {
        async { self.0.recv().await.ok() }.boxed()
    }
}

struct Gateway {
    places: Arc<Places>,
    tasks: JoinSet<()>,
}

impl Gateway {
    /// Begins, and is known once this returns.
    async fn start(net: &Arc<Net>, limit: Limit) -> Self {
        Gateway::start_as(GatewayName::random(), net, limit).await
    }

    async fn start_as(name: GatewayName, net: &Arc<Net>, limit: Limit) -> Self {
        let metrics = Metrics::register(&mut Registry::default());
        let places = Arc::new(Places::new(limit, name, Arc::new(Port(net.clone())), metrics));
        net.reachable.lock().insert(name, Arc::downgrade(&places));
        let (health, mut tasks) = (Health::default(), JoinSet::new());
        tasks.spawn(places.clone().keep_up(health.part("members", "the others")));
        tasks.spawn(places.clone().keep_told());
        tasks.spawn(places.clone().keep_compared());
        while !health.missing().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Gateway { places, tasks }
    }

    /// Without a word.
    fn die(mut self, net: &Net) {
        net.reachable.lock().remove(&self.places.members.own());
        self.tasks.abort_all();
    }

    async fn open(&self, user: &str) -> Option<ClientId> {
        let identity = someone(user);
        let stream = ClientId::random(self.places.members.own());
        let place = self.places.admit(Some(&identity), stream, Timestamp::default()).await?;
        place.taken();
        Some(stream)
    }
}

fn net() -> Arc<Net> {
    let (reachable, notices) = (Mutex::default(), broadcast::channel(1000).0);
    Arc::new(Net {
        reachable,
        notices,
        loses_ends: false.into(),
        loses_places: false.into(),
        delays_places: false.into(),
    })
}

async fn gateways(net: &Arc<Net>, count: usize, limit: Limit) -> Vec<Gateway> {
    let mut gateways = Vec::new();
    for _ in 0..count {
        gateways.push(Gateway::start(net, limit).await);
    }
    gateways
}

fn someone(subject: &str) -> Identity {
    let mut identity = Identity::default();
    subject.clone_into(&mut identity.subject);
    identity
}

const USERS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

fn limit(most: usize, beyond: Beyond) -> Limit {
    Limit { most, beyond }
}

/// Opens so many streams of each user at once, each in turn at another gateway.
async fn race(gateways: &[Gateway], each: usize) -> Vec<(usize, usize, ClientId)> {
    let opened = USERS.iter().enumerate().flat_map(|(user, name)| {
        (0..each).map(move |turn| async move {
            let at = (user + turn) % gateways.len();
            gateways[at].open(name).await.map(|stream| (user, at, stream))
        })
    });
    join_all(opened).await.into_iter().flatten().collect()
}

fn of(user: usize, opened: &[(usize, usize, ClientId)]) -> usize {
    opened.iter().filter(|(owner, ..)| *owner == user).count()
}

#[tokio::test(start_paused = true)]
async fn streams_that_race_on_several_gateways_do_not_pass_the_limit_also_when_another_decides() {
    let net = net();
    let mut gateways = gateways(&net, 3, limit(5, Beyond::Reject)).await;
    let opened = race(&gateways, 12).await;
    (0..USERS.len()).for_each(|user| assert_eq!(of(user, &opened), 5, "{}", USERS[user]));
    assert!(race(&gateways, 3).await.is_empty());
    // One that comes decides from the moment that the others know it, and by what they have to tell it.
    let decides = |name: &GatewayName| {
        let members = Members::new(*name);
        gateways.iter().for_each(|gateway| _ = members.heard(gateway.places.members.own()));
        USERS.iter().any(|user| members.owner(someone(user).principal()) == *name)
    };
    let name = std::iter::repeat_with(GatewayName::random).find(decides).unwrap();
    let (newest, raced) = tokio::join!(Gateway::start_as(name, &net, limit(5, Beyond::Reject)), async {
        while gateways.iter().any(|gateway| gateway.places.members.others().len() < 3) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        race(&gateways, 3).await
    });
    assert!(raced.is_empty(), "{} began", raced.len());
    gateways.push(newest);
    assert!(race(&gateways, 3).await.is_empty());
    // One that goes takes its streams along, and no others.
    let gone = gateways.remove(1);
    gone.places.leave().await;
    gone.die(&net);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut stay: Vec<_> = opened.into_iter().filter(|(_, at, _)| *at != 1).collect();
    stay.extend(race(&gateways, 12).await);
    (0..USERS.len()).for_each(|user| assert_eq!(of(user, &stay), 5, "{}", USERS[user]));
}

#[tokio::test(start_paused = true)]
async fn who_decided_and_dies_is_replaced_within_a_stated_time_and_until_then_a_gateway_lets_in_by_its_own_streams()
 {
    let net = net();
    let mut gateways = gateways(&net, 3, limit(4, Beyond::Reject)).await;
    // A stream at each of two gateways; the third decides and has none.
    let principal = |user: &str| someone(user).principal();
    let decider = gateways[2].places.members.own();
    let user = (0..)
        .map(|n| format!("u{n}"))
        .find(|user| gateways[0].places.members.owner(principal(user)) == decider);
    let user = user.unwrap();
    for gateway in &gateways[..2] {
        assert!(gateway.open(&user).await.is_some());
    }
    gateways.pop().unwrap().die(&net);
    let died = Instant::now();
    // Three more at the first, which has four then, and not one more anywhere by itself.
    for admitted in [true, true, true, false] {
        assert_eq!(gateways[0].open(&user).await.is_some(), admitted);
    }
    assert!(died.elapsed() < Duration::from_secs(1), "nobody waits for the dead");
    tokio::time::sleep_until(died + Duration::from_secs(7)).await;
    assert!(gateways.iter().all(|gateway| gateway.places.members.others().len() == 1));
    assert!(gateways[1].open(&user).await.is_none(), "five of four by now");
}

#[tokio::test(start_paused = true)]
async fn the_oldest_stream_wherever_it_is_ends_for_the_newest() {
    let net = net();
    let gateways = gateways(&net, 3, limit(2, Beyond::CloseOldest)).await;
    let mut open = Vec::new();
    for turn in 0..6 {
        let stream = gateways[turn % 3].open("ann").await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
        open.push((turn % 3, stream));
        let ousted: Vec<bool> =
            open.iter().map(|(at, stream)| gateways[*at].places.is_ousted(*stream)).collect();
        let expected: Vec<bool> = (0..open.len()).map(|at| at + 2 < open.len()).collect();
        assert_eq!(ousted, expected);
    }
    // However many at once: all begin, and as many are told to end as are too many.
    let opened = race(&gateways, 20).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    for (user, name) in USERS.iter().enumerate() {
        let stay = opened
            .iter()
            .filter(|(of_user, at, stream)| *of_user == user && !gateways[*at].places.is_ousted(*stream));
        assert_eq!((of(user, &opened), stay.count()), (20, 2), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn ends_that_are_lost_on_the_way_are_found_by_comparing() {
    let net = net();
    let gateways = gateways(&net, 3, limit(3, Beyond::Reject)).await;
    let opened = race(&gateways, 3).await;
    net.loses_ends.store(true, Ordering::SeqCst);
    opened.iter().for_each(|(_, at, stream)| gateways[*at].places.closed(*stream));
    tokio::time::sleep(Duration::from_secs(20)).await;
    let opened = race(&gateways, 9).await;
    (0..USERS.len()).for_each(|user| assert_eq!(of(user, &opened), 3, "{}", USERS[user]));
}

#[tokio::test(start_paused = true)]
async fn a_place_whose_answer_was_lost_is_free_again_where_no_stream_has_it() {
    let net = net();
    let gateways = gateways(&net, 2, limit(1, Beyond::Reject)).await;
    let [asks, decides] = &gateways[..] else { panic!("two") };
    let owner = decides.places.members.own();
    let user = (0..).map(|n| format!("u{n}"));
    let user = user.into_iter().find(|user| asks.places.members.owner(someone(user).principal()) == owner);
    let user = user.unwrap();
    net.loses_places.store(true, Ordering::SeqCst);
    // By its own streams alone, and not one more.
    let first = asks.open(&user).await.unwrap();
    assert!(asks.open(&user).await.is_none());
    net.loses_places.store(false, Ordering::SeqCst);
    asks.places.closed(first);
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(asks.open(&user).await.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_over_before_its_place_is_asked_for_has_none() {
    let net = net();
    let gateways = gateways(&net, 2, limit(1, Beyond::Reject)).await;
    let [asks, decides] = &gateways[..] else { panic!("two") };
    let owner = decides.places.members.own();
    let mut users = (0..).map(|n| format!("u{n}"));
    let user = users.find(|user| asks.places.members.owner(someone(user).principal()) == owner).unwrap();
    net.delays_places.store(true, Ordering::SeqCst);
    assert!(timeout(DELAYED / 2, asks.open(&user)).await.is_err(), "its client goes");
    tokio::time::sleep(DELAYED).await;
    net.delays_places.store(false, Ordering::SeqCst);
    assert!(asks.open(&user).await.is_some());
    // What is remembered has an end, in time and number.
    let remembered = || decides.places.known.lock().over.len();
    let end = |n: u128| decides.places.known.lock().ended(7, ClientId::from(n));
    (0..2 * OVER_MAX as u128).for_each(end);
    assert_eq!(remembered(), OVER_MAX);
    tokio::time::sleep(OVER_FOR).await;
    end(1);
    assert_eq!(remembered(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_a_gateway_says_after_it_is_known_to_be_gone_is_forgotten() {
    let net = net();
    let gateways = gateways(&net, 2, limit(1, Beyond::Reject)).await;
    let [here, _] = &gateways[..] else { panic!("two") };
    let gone = GatewayName::random();
    let user = someone("ann").principal();
    let entry = Entry { stream: ClientId::random(gone), since: 0, noted: Instant::now() };
    here.places.replace(gone, &[part_of(user)], vec![(user, entry)], Some(7));
    let known = || {
        let known = here.places.known.lock();
        (known.decided.len(), known.told.contains_key(&gone))
    };
    assert_eq!(known(), (1, true));
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(known(), (0, false));
}

#[tokio::test(start_paused = true)]
async fn a_place_that_no_stream_takes_is_free_again() {
    let net = net();
    let gateways = gateways(&net, 2, limit(1, Beyond::Reject)).await;
    let identity = someone("ann");
    for _ in 0..3 {
        let stream = ClientId::random(gateways[0].places.members.own());
        let place = gateways[0].places.admit(Some(&identity), stream, Timestamp::default()).await.unwrap();
        assert!(gateways[1].open("ann").await.is_none());
        drop(place);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Nobody's have no limit.
    for _ in 0..3 {
        let stream = ClientId::random(gateways[0].places.members.own());
        gateways[0].places.admit(None, stream, Timestamp::default()).await.unwrap().taken();
    }
}
