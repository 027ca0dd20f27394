//! Turns, places and what rests, under a clock that stands still where time matters.
//!
//! Input: callers and loopback sockets. Output: pass or fail. Must not: wait for real time where it need not.

use super::*;
use banyan_routes::units::Span;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

fn rule(max: u32, queue: u32, wait_ms: u64) -> Connections {
    Connections {
        max,
        queue: Some(queue),
        queue_wait: Some(Span(Duration::from_millis(wait_ms))),
        pool: None,
    }
}

/// Used and waiting.
fn permits(cap: &Cap) -> (u32, u32) {
    let state = cap.lock();
    (state.used / WHOLE, state.waiting)
}

#[tokio::test(start_paused = true)]
async fn callers_take_turns_and_one_caller_is_served_in_its_order() {
    let (cap, rule) = (Arc::new(Cap::default()), rule(1, 10, 60_000));
    let first = cap.enter(&rule, WHOLE, "x").await.ok();
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    for name in ["a1", "a2", "a3", "b1", "c1", "b2"] {
        let (cap, order, rule) = (cap.clone(), order.clone(), rule.clone());
        tasks.push(tokio::spawn(async move {
            let permit = cap.enter(&rule, WHOLE, &name[..1]).await;
            order.lock().unwrap_or_else(PoisonError::into_inner).push(name);
            drop(permit);
        }));
        tokio::task::yield_now().await;
    }
    assert_eq!(permits(&cap), (1, 6));
    drop(first);
    for task in tasks {
        assert!(task.await.is_ok());
    }
    assert_eq!(*order.lock().unwrap_or_else(PoisonError::into_inner), ["a1", "b1", "c1", "a2", "b2", "a3"]);
    assert_eq!(permits(&cap), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_and_a_late_turn_are_told_apart_and_nothing_is_lost() {
    let (cap, rule) = (Arc::new(Cap::default()), rule(2, 1, 100));
    let held = [cap.enter(&rule, WHOLE, "a").await.ok(), cap.enter(&rule, WHOLE, "b").await.ok()];
    let waits = tokio::spawn({
        let (cap, rule) = (cap.clone(), rule.clone());
        async move { cap.enter(&rule, WHOLE, "c").await.err() }
    });
    tokio::task::yield_now().await;
    assert_eq!(cap.enter(&rule, WHOLE, "d").await.err(), Some(Full::Queue));
    tokio::time::advance(Duration::from_millis(70)).await;
    assert_eq!((cap.figures().queued, cap.figures().wait), (1, Duration::from_millis(70)));
    assert_eq!(waits.await.ok().flatten(), Some(Full::Late));
    assert_eq!(permits(&cap), (2, 0));
    drop(held);
    assert_eq!(permits(&cap), (0, 0));
    // Many that come and go, some of them late.
    let mut tasks = Vec::new();
    for n in 0..300_u64 {
        let (cap, rule) = (cap.clone(), rule.clone());
        tasks.push(tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(n % 17 * 10)).await;
            let permit = cap.enter(&rule, WHOLE, &(n % 5)).await;
            tokio::time::sleep(Duration::from_millis(n % 13 * 9)).await;
            drop(permit);
        }));
    }
    for task in tasks {
        assert!(task.await.is_ok());
    }
    assert_eq!(permits(&cap), (0, 0));
}

/// Both ends of a connection.
async fn connected() -> Option<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0").await.ok()?;
    let near = TcpStream::connect(listener.local_addr().ok()?).await.ok()?;
    Some((near, listener.accept().await.ok()?.0))
}

#[tokio::test]
async fn a_socket_that_rests_is_closed_for_one_that_is_wanted_and_one_in_use_is_not() {
    let (cap, rule) = (Arc::new(Cap::default()), rule(2, 0, 100));
    let Some((near, mut far)) = connected().await else { unreachable!("a loopback connection") };
    let Ok(to) = near.peer_addr() else { unreachable!("a connected socket") };
    let (Ok(mut first), Ok(second)) =
        (cap.place(&rule, opened(to, false)).await, cap.place(&rule, opened(to, false)).await)
    else {
        unreachable!("two places")
    };
    first.pooled(&near);
    let number = near.as_raw_fd();
    let soon = |cap: Arc<Cap>, rule: Connections| async move {
        tokio::time::timeout(Duration::from_millis(50), cap.place(&rule, opened(to, false)))
            .await
            .is_ok_and(|place| place.is_ok())
    };
    // Fresh, then used: it is nobody else's.
    assert!(!soon(cap.clone(), rule.clone()).await);
    let used = cap.begin(number).ok().flatten();
    assert!(used.is_some() && !soon(cap.clone(), rule.clone()).await);
    assert_eq!(cap.figures(), Figures { in_use: 2, ..Figures::default() });
    assert_eq!(cap.rests_at(), None);
    drop(used);
    assert_eq!(cap.rests_at(), Some(to));
    assert_eq!(cap.figures(), Figures { in_use: 1, idle: 1, ..Figures::default() });
    let waits = tokio::spawn({
        let (cap, rule) = (cap.clone(), rule.clone());
        async move { cap.place(&rule, opened(to, false)).await }
    });
    let mut byte = [0];
    assert_eq!(far.read(&mut byte).await.ok(), Some(0), "the other end sees it close");
    assert_eq!(cap.begin(number).err(), Some(Closing));
    assert!(!waits.is_finished(), "not before it is closed");
    drop(first);
    drop(near);
    assert!(waits.await.is_ok_and(|place| place.is_ok()));
    assert_eq!(cap.begin(number).err(), Some(Closing), "it has ended");
    assert!(matches!(cap.begin(-1), Ok(None)), "a connection of its own");
    drop(second);
    assert_eq!(cap.figures(), Figures::default());
}

fn opened(to: SocketAddr, shared: bool) -> Opened {
    Opened { to, pool: Pool::Main, shared }
}

#[tokio::test]
async fn a_connection_that_takes_more_requests_is_shared_within_its_pool_and_closed_for_others() {
    let (cap, rule) = (Arc::new(Cap::default()), rule(1, 0, 100));
    let Some((near, far)) = connected().await else { unreachable!("a loopback connection") };
    let (Ok(to), Ok(other)) = (near.peer_addr(), far.peer_addr()) else { unreachable!("connected sockets") };
    let Ok(mut place) = cap.place(&rule, opened(to, true)).await else { unreachable!("a place") };
    place.pooled(&near);
    // While it is made it is waited for; once somebody has it, it is shared.
    let waits = tokio::spawn({
        let (cap, rule) = (cap.clone(), rule.clone());
        async move { cap.place(&rule, opened(to, true)).await.err() }
    });
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!waits.is_finished());
    let used = cap.begin(near.as_raw_fd());
    assert_eq!(waits.await.ok().flatten(), Some(Shared));
    drop(used);
    assert_eq!(cap.place(&rule, opened(to, true)).await.err(), Some(Shared));
    assert!(cap.begin(near.as_raw_fd()).is_ok());
    // Whoever cannot find it in a pool of its own, or wants another address, has it closed.
    for wanted in [
        Opened { pool: Pool::Whole, ..opened(to, true) },
        Opened { pool: Pool::Alone, ..opened(to, true) },
        opened(to, false),
        opened(other, true),
    ] {
        let (cap, rule) = (Arc::new(Cap::default()), rule.clone());
        let Some((near, _far)) = connected().await else { unreachable!("a loopback connection") };
        let Ok(mut place) = cap.place(&rule, opened(to, true)).await else { unreachable!("a place") };
        place.pooled(&near);
        drop(cap.begin(near.as_raw_fd()));
        assert!(tokio::time::timeout(Duration::from_millis(50), cap.place(&rule, wanted)).await.is_err());
        assert_eq!(cap.begin(near.as_raw_fd()).err(), Some(Closing), "{wanted:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_gives_up_is_not_counted_and_keeps_nobody_waiting() {
    let (cap, rule) = (Arc::new(Cap::default()), rule(1, 2, 60_000));
    let held = cap.enter(&rule, 1, "a").await.ok();
    let given_up = tokio::time::timeout(Duration::from_millis(10), cap.enter(&rule, WHOLE, "b")).await;
    assert!(given_up.is_err() && permits(&cap).1 == 0, "its entry is gone with it");
    // Who wants a whole connection waits for its turn, and one behind it that would fit waits as well.
    let whole = tokio::spawn({
        let (cap, rule) = (cap.clone(), rule.clone());
        async move { tokio::time::timeout(Duration::from_millis(50), cap.enter(&rule, WHOLE, "c")).await.is_err() }
    });
    tokio::task::yield_now().await;
    let part = tokio::spawn({
        let (cap, rule) = (cap.clone(), rule.clone());
        async move { cap.enter(&rule, 1, "d").await.is_ok() }
    });
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!part.is_finished());
    assert!(whole.await.unwrap_or_default() && part.await.unwrap_or_default());
    drop(held);
    let state = cap.lock();
    assert_eq!((state.used, state.waiting), (0, 0));
}

#[tokio::test]
async fn narrower_rules_close_what_rests_and_what_comes_to_rest() {
    let (cap, wide, narrow) = (Arc::new(Cap::default()), rule(3, 0, 100), rule(1, 0, 100));
    let mut open = Vec::new();
    for _ in 0..3 {
        let Some((near, far)) = connected().await else { unreachable!("a loopback connection") };
        let Ok(to) = near.peer_addr() else { unreachable!("a connected socket") };
        let Ok(mut place) = cap.place(&wide, opened(to, false)).await else { unreachable!("a place") };
        place.pooled(&near);
        let used = cap.begin(near.as_raw_fd()).ok().flatten();
        open.push((near, far, place, used));
    }
    drop(open[0].3.take());
    assert!(cap.try_enter(&narrow, WHOLE).is_some());
    assert_eq!(cap.begin(open[0].0.as_raw_fd()).err(), Some(Closing), "it rested");
    drop(open[1].3.take());
    assert_eq!(cap.begin(open[1].0.as_raw_fd()).err(), Some(Closing), "it came to rest");
    drop(open[2].3.take());
    assert!(cap.begin(open[2].0.as_raw_fd()).is_ok(), "one is allowed");
}

#[tokio::test(start_paused = true)]
async fn wider_rules_let_those_in_who_wait_and_narrower_ones_let_nobody_in() {
    let (cap, narrow, wide) = (Arc::new(Cap::default()), rule(1, 10, 1_000), rule(3, 10, 1_000));
    let first = cap.enter(&narrow, WHOLE, "a").await.ok();
    let waits = tokio::spawn({
        let (cap, narrow) = (cap.clone(), narrow.clone());
        async move { cap.enter(&narrow, WHOLE, "b").await.ok() }
    });
    tokio::task::yield_now().await;
    let third = cap.enter(&wide, WHOLE, "c").await.ok();
    let second = waits.await.ok().flatten();
    assert!(third.is_some() && second.is_some());
    assert_eq!(permits(&cap), (3, 0));
    drop((second, third));
    assert!(cap.try_enter(&narrow, WHOLE).is_none() && cap.try_enter(&narrow, 1).is_none());
    drop(first);
    // Connections that carry many requests.
    let many: Vec<_> = (0..150).map_while(|_| cap.try_enter(&narrow, 1)).collect();
    assert_eq!((many.len(), cap.try_enter(&narrow, WHOLE).is_none()), (100, true));
    drop(many);
    assert_eq!(permits(&cap), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn whoever_can_do_without_hears_of_whoever_cannot() {
    let (cap, rule) = (Arc::new(Cap::default()), rule(1, 10, 1_000));
    let copy = tokio::spawn({
        let (cap, rule) = (cap.clone(), rule.clone());
        async move {
            let mut wanted = pin!(cap.wanted());
            wanted.as_mut().enable();
            let permit = cap.try_enter(&rule, WHOLE);
            wanted.await;
            permit.is_some()
        }
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!copy.is_finished() && permits(&cap) == (1, 0));
    let began = Instant::now();
    assert!(cap.enter(&rule, WHOLE, "a client").await.is_ok_and(|_| began.elapsed().is_zero()));
    assert!(copy.await.unwrap_or_default());
    assert_eq!(permits(&cap), (0, 0));
}

#[test]
fn caps_go_on_as_long_as_somebody_has_them() {
    let caps = Caps::default();
    let (own, shared) = (rule(1, 1, 1), Connections { pool: Some("core".into()), ..rule(1, 1, 1) });
    let cap = caps.of(&own, "backend a");
    assert!(Arc::ptr_eq(&cap, &caps.of(&own, "backend a")));
    assert!(!Arc::ptr_eq(&cap, &caps.of(&own, "backend b")));
    assert!(Arc::ptr_eq(&caps.of(&shared, "backend a"), &caps.of(&shared, "egress b")));
    assert_eq!(caps.all.lock().map(|all| all.len()).ok(), Some(2), "one that somebody has, and the last");
}
