use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn report(number: u64, phase: Phase, streams: u64) -> Report {
    Report {
        gateway: GatewayName::new(number),
        pod: format!("gateway-{number}"),
        phase,
        streams,
        streams_max: 100_000,
        pace: streams as f64 / 60.0,
        streams_per_second: 1000,
        shedding: 0,
    }
}

fn pod(number: u64, revision: &str, terminating: bool) -> Pod {
    Pod {
        name: format!("gateway-{number}"),
        revision: revision.to_owned(),
        created: format!("{number:03}"),
        ready: true,
        terminating,
        cost: None,
    }
}

/// Half of what gateways may begin may come of others; and 25 %, as by default.
fn settings() -> Settings {
    let selector = "a=b".to_owned();
    Settings::from(&GatewayFleetSpec { selector, accept_share: Some(50), ..GatewayFleetSpec::default() })
}

/// A fleet that has listened for long enough, and when that is.
fn fleet() -> (Fleet, Instant) {
    let began = Instant::now();
    let mut fleet = Fleet::new(began);
    fleet.paced(settings(), Vec::new(), began);
    (fleet, began + LISTENS_FIRST)
}

fn waits(order: &Order, what: &str) {
    assert!(matches!(order, Order::Wait { why } if why.contains(what)), "{order:?} where {what:?} is due");
}

#[tokio::test]
async fn only_as_many_drain_at_once_as_the_others_take_and_at_least_one_does() {
    let (mut fleet, now) = fleet();
    fleet.order(report(1, Phase::Serving, 100), now);
    // 300 a second each, where the one that serves takes 500 of others.
    assert_eq!(fleet.order(report(2, Phase::Waiting, 18_000), now), Order::Drain);
    waits(&fleet.order(report(3, Phase::Waiting, 18_000), now), "take 500");
    waits(&fleet.order(report(4, Phase::Waiting, 600), now), "gateway-3 waits for longer");
    // Asked again because the answer was lost, it is its turn all the same.
    assert_eq!(fleet.order(report(2, Phase::Waiting, 18_000), now), Order::Drain);
    // The first is through.
    fleet.order(Report { pace: 300.0, ..report(2, Phase::Draining, 10) }, now + SECOND);
    let later = now + SECOND * 2;
    waits(&fleet.order(report(3, Phase::Waiting, 18_000), later), "take 500");
    fleet.order(report(2, Phase::Gone, 0), later);
    assert_eq!(fleet.order(report(3, Phase::Waiting, 18_000), later), Order::Drain);
    assert_eq!(fleet.order(report(4, Phase::Waiting, 600), later), Order::Drain, "there is room for it too");
    assert_eq!(fleet.summary().draining, ["gateway-3", "gateway-4"]);
    // One that is too much for the others drains all the same once nobody else does.
    let (mut fleet, now) = self::fleet();
    fleet.order(report(1, Phase::Serving, 0), now);
    assert_eq!(fleet.order(report(2, Phase::Waiting, 1_000_000), now), Order::Drain);
}

#[tokio::test]
async fn nobody_drains_while_gateways_of_an_earlier_revision_still_take_streams_on_that_are_about_to_stop() {
    let (mut fleet, now) = fleet();
    fleet.order(report(11, Phase::Serving, 0), now);
    let new = [pod(11, "b", false), pod(12, "b", false)];
    fleet.paced(settings(), [&[pod(1, "a", true), pod(2, "a", false)], &new[..]].concat(), now);
    waits(&fleet.order(report(1, Phase::Waiting, 5), now), "1 gateways of an earlier revision");
    fleet.paced(settings(), [&[pod(1, "a", true), pod(2, "a", true)], &new[..]].concat(), now);
    assert_eq!(fleet.order(report(1, Phase::Waiting, 5), now), Order::Drain);
    // An earlier ReplicaSet that replaces a pod is not the last one for that.
    fleet.paced(settings(), [&[pod(1, "a", true), pod(20, "a", false)], &new[..]].concat(), now);
    waits(&fleet.order(report(3, Phase::Waiting, 5), now), "1 gateways of an earlier revision");
    // One that is rolled back from isn't either: the others have gone to the one before.
    let (mut fleet, now) = self::fleet();
    fleet.order(report(1, Phase::Serving, 0), now);
    let back = [pod(1, "a", false), pod(2, "a", false)];
    fleet.paced(settings(), [&back[..], &[pod(11, "b", true), pod(12, "b", false)]].concat(), now);
    waits(&fleet.order(report(11, Phase::Waiting, 5), now), "1 gateways of an earlier revision");
    // What was seen too long ago counts no more.
    fleet.forget(now + LOOKS_WITHIN);
    fleet.order(report(1, Phase::Serving, 0), now + LOOKS_WITHIN);
    assert_eq!(fleet.order(report(11, Phase::Waiting, 5), now + LOOKS_WITHIN), Order::Drain);
    // Where few are new yet, or ready, waiting for all the others would be long, and keep the room that they need.
    let (mut fleet, now) = self::fleet();
    fleet.order(report(11, Phase::Serving, 0), now);
    fleet.paced(
        settings(),
        vec![pod(1, "a", true), pod(2, "a", false), pod(3, "a", false), pod(11, "b", false)],
        now,
    );
    assert_eq!(fleet.order(report(1, Phase::Waiting, 5), now), Order::Drain);
    // And where nothing is new, as when nodes are drained, nobody waits for that.
    let (mut fleet, now) = self::fleet();
    fleet.order(report(2, Phase::Serving, 0), now);
    fleet.paced(settings(), vec![pod(1, "a", true), pod(2, "a", false)], now);
    assert_eq!(fleet.order(report(1, Phase::Waiting, 5), now), Order::Drain);
}

#[tokio::test]
async fn one_who_has_just_begun_listens_first_and_where_nobody_is_paced_nobody_waits() {
    let began = Instant::now();
    let mut fleet = Fleet::new(began);
    waits(&fleet.order(report(1, Phase::Waiting, 5), began), "yet to see");
    // Nobody can look: by what they say alone.
    let late = began + LOOKS_WITHIN;
    waits(&fleet.order(report(5, Phase::Waiting, 5), late), "gateway-1 waits for longer");
    waits(&fleet.order(report(1, Phase::Waiting, 5), late), "no gateway takes streams on");
    fleet.unpaced();
    assert_eq!(fleet.order(report(1, Phase::Waiting, 5), began), Order::Drain);
    fleet.paced(settings(), Vec::new(), began);
    waits(&fleet.order(report(2, Phase::Waiting, 5), began), "just begun");
    waits(&fleet.order(report(2, Phase::Waiting, 5), began + LISTENS_FIRST), "no gateway takes streams on");
    // One whose pod was told to stop is no place to go either, though it may not know it yet.
    fleet.order(report(3, Phase::Serving, 5), began + LISTENS_FIRST);
    fleet.paced(settings(), vec![pod(3, "a", true)], began);
    waits(&fleet.order(report(2, Phase::Waiting, 5), began + LISTENS_FIRST), "no gateway takes streams on");
    fleet.paced(settings(), vec![pod(3, "a", false)], began);
    assert_eq!(fleet.order(report(2, Phase::Waiting, 5), began + LISTENS_FIRST), Order::Drain);
    assert_eq!(fleet.counted(), [3, 2, 0]);
    // Of pods that are the fleet's, and since it is paced.
    fleet.paced(settings(), vec![pod(2, "a", true)], began);
    let happened: Vec<_> = std::iter::from_fn(|| fleet.next_happening()).map(|h| (h.pod, h.reason)).collect();
    assert_eq!(happened, ["DrainWaits", "DrainBegins"].map(|reason| ("gateway-2".to_owned(), reason)));
}

#[tokio::test]
async fn crowded_gateways_shed_what_they_have_above_the_mean_once_a_new_one_has_settled() {
    let (mut fleet, now) = fleet();
    let all = |fleet: &mut Fleet, at, streams: [u64; 3]| {
        [1, 2, 3].map(|number| {
            let streams = streams[usize::try_from(number).unwrap() - 1];
            fleet.order(report(number, Phase::Serving, streams), at)
        })
    };
    all(&mut fleet, now, [9000, 9000, 0]);
    fleet.look(now + SECOND);
    assert_eq!(
        all(&mut fleet, now + SECOND, [9000, 9000, 0]),
        [Order::Continue, Order::Continue, Order::Continue]
    );
    let settled = now + SETTLES;
    all(&mut fleet, settled, [9000, 9000, 0]);
    // In a rollout they are about to be moved anyway.
    fleet.paced(settings(), vec![pod(1, "a", false), pod(3, "b", false)], settled);
    fleet.look(settled);
    assert_eq!(fleet.summary().shedding, Vec::<String>::new());
    fleet.paced(settings(), vec![pod(1, "a", false), pod(3, "a", false)], settled);
    fleet.look(settled);
    // 3,000 each, no faster than they would drain: 150 a second.
    let shed = Order::Shed { streams: 3000, seconds: 20 };
    assert_eq!(fleet.summary().shedding, ["gateway-1", "gateway-2"]);
    let orders = all(&mut fleet, settled, [9000, 9000, 0]);
    assert_eq!(orders, [shed.clone(), shed, Order::Continue]);
    // Not again before that is over and its streams are back.
    let during = settled + Duration::from_secs(20);
    all(&mut fleet, during, [7000, 7000, 4000]);
    fleet.look(during);
    assert_eq!(
        all(&mut fleet, during, [7000, 7000, 4000]),
        [Order::Continue, Order::Continue, Order::Continue]
    );
    // By then nobody is far enough below the mean.
    let after = settled + Duration::from_secs(36);
    all(&mut fleet, after, [6500, 6500, 5000]);
    fleet.look(after);
    assert_eq!(
        all(&mut fleet, after, [6500, 6500, 5000]),
        [Order::Continue, Order::Continue, Order::Continue]
    );
    // Nobody sheds while another drains.
    fleet.order(report(4, Phase::Waiting, 10), after);
    all(&mut fleet, after, [9000, 9000, 0]);
    fleet.look(after);
    assert_eq!(all(&mut fleet, after, [9000, 9000, 0]), [Order::Continue, Order::Continue, Order::Continue]);
}

#[tokio::test]
async fn of_many_gateways_one_that_is_new_is_shed_to_all_the_same_and_one_without_room_or_unready_is_not() {
    for (streams_max, ready, is_shed_to) in [(100_000, true, true), (0, true, false), (100_000, false, false)]
    {
        let (mut fleet, now) = fleet();
        fleet.paced(settings(), vec![Pod { ready, ..pod(10, "a", false) }], now);
        let mut shed = 0;
        for at in [now, now + SETTLES, now + SETTLES] {
            for number in 0..10 {
                // They are full, which is why there is a new one.
                let full = Report { streams_max: 1100, ..report(number, Phase::Serving, 1100) };
                let order = fleet.order(full, at);
                shed += if let Order::Shed { streams, .. } = order { streams } else { 0 };
            }
            fleet.order(Report { streams_max, ..report(10, Phase::Serving, 0) }, at);
            fleet.look(at);
        }
        assert_eq!(shed, if is_shed_to { 1000 } else { 0 }, "{streams_max} {ready}");
    }
}

#[tokio::test]
async fn sheds_that_do_not_help_come_ever_more_seldom() {
    let (mut fleet, mut now) = fleet();
    let mut sheds = Vec::new();
    let began = now;
    while now.duration_since(began) < Duration::from_secs(1000) {
        let first = fleet.order(report(1, Phase::Serving, 1000), now);
        fleet.order(report(2, Phase::Serving, 0), now);
        if first != Order::Continue {
            sheds.push(now.duration_since(began).as_secs());
        }
        fleet.look(now);
        now += SECOND;
    }
    // Each takes 30 s; then 15, 30, 60, … pass.
    assert_eq!(sheds, [16, 61, 121, 211, 361, 631]);
}

#[tokio::test]
async fn a_pod_costs_its_streams_and_is_told_so_again_when_they_are_others() {
    let (mut fleet, now) = fleet();
    fleet.order(report(1, Phase::Serving, 1000), now);
    fleet.order(report(2, Phase::Serving, 0), now);
    let known = |cost, terminating| {
        vec![Pod { cost, ..pod(1, "a", terminating) }, pod(2, "a", true), pod(9, "a", false)]
    };
    let due = [("gateway-1".to_owned(), 1000)];
    for (cost, terminating, is_told) in [
        (None, false, true),
        (Some(1000), false, false),
        (Some(950), false, false),
        (Some(800), false, true),
        (Some(0), false, true),
        (None, true, false),
    ] {
        fleet.paced(settings(), known(cost, terminating), now);
        assert_eq!(fleet.costs(), if is_told { &due[..] } else { &[] }, "{cost:?}");
    }
}

#[tokio::test]
async fn who_is_silent_is_gone_and_holds_nobody_up() {
    let (mut fleet, now) = fleet();
    fleet.order(report(1, Phase::Serving, 10), now);
    fleet.order(report(2, Phase::Draining, 60_000), now);
    waits(&fleet.order(report(3, Phase::Waiting, 60), now), "drain or shed already");
    let later = now + LEAVING_SILENT;
    fleet.look(later);
    assert_eq!(fleet.summary().draining, Vec::<String>::new());
    assert_eq!(fleet.order(report(3, Phase::Waiting, 60), later), Order::Drain);
    fleet.look(later + SERVING_SILENT);
    assert_eq!(fleet.summary().gateways, 0);
}
