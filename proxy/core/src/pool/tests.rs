use super::*;

const LIMITS: Limits = Limits {
    size: 2,
    size_min: 0,
    reserve: 0,
    reserve_after: Duration::from_secs(5),
    login_retry: Duration::from_secs(15),
};

fn pool(limits: Limits) -> Pool {
    Pool::new(0, Shared::new(1, limits, Vec::new()), false)
}

fn open(pool: &mut Pool, server: ServerKey, now: Moment) -> Returned {
    assert_eq!(pool.next_step(now), Step::Open);
    pool.opened();
    pool.returned(server, now)
}

#[test]
fn waiters_are_served_in_order_and_no_more_servers_open_than_allowed() {
    let mut pool = pool(LIMITS);
    let now = Moment(1);
    for client in 0..4 {
        assert_eq!(pool.request(client, now), Request::Queued);
    }
    assert_eq!(open(&mut pool, 10, now), Returned::Serve(0));
    assert_eq!(open(&mut pool, 11, now), Returned::Serve(1));
    assert_eq!(pool.next_step(now), Step::WaitUntil(now + LOOK_AGAIN));
    assert_eq!(pool.returned(10, now), Returned::Serve(2));
    assert_eq!(pool.returned(11, now), Returned::Serve(3));
    assert_eq!(pool.returned(10, now), Returned::Kept);
    assert_eq!(pool.request(5, now), Request::Granted(10));
}

#[test]
fn the_reserve_opens_after_its_wait() {
    let mut pool = pool(Limits {
        size: 1,
        reserve: 1,
        ..LIMITS
    });
    pool.request(0, Moment(0));
    assert_eq!(open(&mut pool, 10, Moment(0)), Returned::Serve(0));
    pool.request(1, Moment(0));
    assert_eq!(
        pool.next_step(Moment(0)),
        Step::WaitUntil(Moment(0) + LOOK_AGAIN)
    );
    assert_eq!(
        pool.next_step(Moment(4_999_000)),
        Step::WaitUntil(Moment(5_000_000))
    );
    assert_eq!(pool.next_step(Moment(5_000_000)), Step::Open);
}

#[test]
fn failures_are_retried_soon_while_unreachable_and_late_when_rejected() {
    let limits = Limits {
        size_min: 1,
        ..LIMITS
    };
    let mut pool = pool(limits);
    pool.request(0, Moment(0));
    let mut now = Moment(0);
    for _ in 0..20 {
        assert_eq!(pool.next_step(now), Step::Open);
        pool.open_failed(OpenFailure::Unreachable, now);
        let Step::WaitUntil(next) = pool.next_step(now) else {
            panic!("no pause after a failure");
        };
        assert!(next.since(now) <= RETRY_UNREACHABLE_MAX);
        now = next;
    }
    assert_eq!(pool.next_step(now), Step::Open);
    pool.open_failed(OpenFailure::Rejected, now);
    assert_eq!(pool.next_step(now), Step::Refuse);
    assert_eq!(pool.expired(None, now), Some(0));
    let Step::WaitUntil(next) = pool.next_step(now) else {
        panic!("no pause after a failure");
    };
    assert_eq!(next.since(now), LIMITS.login_retry);
}

#[test]
fn who_comes_after_a_rejection_is_refused_until_the_next_attempt() {
    let shared = Shared::new(2, LIMITS, Vec::new());
    let [mut a, mut b] = [0, 1].map(|thread| Pool::new(thread, shared.clone(), false));
    let now = Moment(1);
    a.request(0, now);
    assert_eq!(a.next_step(now), Step::Open);
    a.open_failed(OpenFailure::Rejected, now);
    b.request(7, now);
    assert_eq!(b.next_step(now), Step::Refuse, "on another loop too");
    assert_eq!(b.expired(None, now), Some(7));
    b.request(8, now);
    let due = now + Duration::from_secs(1);
    assert_eq!(b.next_step(due), Step::Open, "it may have been mended");
    assert!(matches!(a.next_step(now), Step::WaitUntil(_)), "or be soon");
    b.open_failed(OpenFailure::Unreachable, due);
    assert!(
        matches!(b.next_step(due), Step::WaitUntil(_)),
        "as a restart"
    );
}

#[test]
fn who_can_wait_for_a_server_is_not_refused() {
    let mut pool = pool(LIMITS);
    let now = Moment(1);
    pool.request(0, now);
    assert_eq!(open(&mut pool, 10, now), Returned::Serve(0));
    pool.request(1, now);
    assert_eq!(pool.next_step(now), Step::Open);
    pool.open_failed(OpenFailure::Rejected, now);
    assert!(matches!(pool.next_step(now), Step::WaitUntil(_)));
    assert_eq!(pool.returned(10, now), Returned::Serve(1));
}

#[test]
fn a_budget_holds_across_pools() {
    let budget = Arc::new(Budget::new(1));
    let [mut a, mut b] =
        [0, 1].map(|_| Pool::new(0, Shared::new(1, LIMITS, vec![budget.clone()]), false));
    a.request(0, Moment(0));
    assert_eq!(open(&mut a, 10, Moment(0)), Returned::Serve(0));
    b.request(0, Moment(0));
    assert_eq!(b.next_step(Moment(0)), Step::Evict);
    assert_eq!(a.returned(10, Moment(0)), Returned::Kept);
    a.closed(10);
    assert_eq!(b.next_step(Moment(0)), Step::Open);
    assert_eq!(budget.used(), 1);
}

#[test]
fn a_server_moves_to_the_loop_whose_waiter_is_older() {
    let shared = Shared::new(2, LIMITS, Vec::new());
    let [mut a, mut b] = [0, 1].map(|thread| Pool::new(thread, shared.clone(), false));
    a.request(0, Moment(0));
    assert_eq!(open(&mut a, 10, Moment(0)), Returned::Serve(0));
    a.request(1, Moment(10_000));
    b.request(0, Moment(9_000));
    assert_eq!(
        a.returned(10, Moment(20_000)),
        Returned::Serve(1),
        "within the margin"
    );
    a.request(2, Moment(20_000));
    assert_eq!(a.returned(10, Moment(20_000)), Returned::Move(1));
    assert_eq!(b.returned(3, Moment(20_000)), Returned::Serve(0));
}

#[test]
fn an_idle_server_elsewhere_is_asked_for() {
    let shared = Shared::new(2, LIMITS, Vec::new());
    let [mut a, mut b] = [0, 1].map(|thread| Pool::new(thread, shared.clone(), false));
    a.request(0, Moment(0));
    assert_eq!(open(&mut a, 10, Moment(0)), Returned::Serve(0));
    assert_eq!(a.returned(10, Moment(0)), Returned::Kept);
    assert_eq!(b.request(7, Moment(0)), Request::Queued);
    assert_eq!(b.next_step(Moment(0)), Step::Ask(0));
    assert_eq!(a.asked(), Some(10));
    assert_eq!(b.returned(0, Moment(0)), Returned::Serve(7));
}

#[test]
fn a_paused_pool_grants_nothing() {
    let mut pool = pool(LIMITS);
    pool.request(0, Moment(0));
    assert_eq!(open(&mut pool, 10, Moment(0)), Returned::Serve(0));
    pool.shared().set_paused(true, Moment(0));
    pool.request(1, Moment(0));
    assert_eq!(pool.next_step(Moment(0)), Step::Wait);
    assert_eq!(pool.returned(10, Moment(0)), Returned::Close);
    pool.closed(10);
    pool.shared().set_paused(false, Moment(0));
    assert_eq!(pool.next_step(Moment(0)), Step::Open);
}

#[test]
fn a_server_that_nobody_needs_is_given_up_in_a_drain() {
    let limits = Limits {
        size_min: 2,
        ..LIMITS
    };
    let mut pool = pool(limits);
    let began = Moment(1);
    for server in [10, 11] {
        assert_eq!(open(&mut pool, server, began), Returned::Kept);
    }
    let later = began + GIVE_UP_AFTER;
    let (never, soon) = (Duration::ZERO, Duration::from_millis(5));
    assert_eq!(pool.idle_too_long(soon, later), None, "it is the minimum");
    pool.shared().begin_drain();
    let before = Moment(later.0 - 1);
    assert_eq!(pool.idle_too_long(never, before), None);
    assert_eq!(
        pool.idle_too_long(soon, began + soon),
        Some(10),
        "no later than without a drain"
    );
    for server in [10, 11] {
        assert_eq!(pool.idle_too_long(never, later), Some(server));
        pool.retire(server);
    }
    pool.closed(10);
    pool.closed(11);
    assert_eq!(pool.next_step(later), Step::Wait, "nobody needs one");
    assert_eq!(pool.request(0, later), Request::Queued);
    assert_eq!(open(&mut pool, 12, later), Returned::Serve(0));
    assert_eq!(pool.next_step(later), Step::Wait, "not the minimum");
}

/// Those in use at once stay open, however the pool chooses among them
/// otherwise; the others go.
#[test]
fn servers_that_are_needed_now_and_then_are_kept_in_a_drain() {
    for round_robin in [false, true] {
        let limits = Limits { size: 3, ..LIMITS };
        let mut pool = Pool::new(0, Shared::new(1, limits, Vec::new()), round_robin);
        let mut now = Moment(1);
        for client in 0..3 {
            pool.request(client, now);
        }
        for (server, client) in [(10, 0), (11, 1), (12, 2)] {
            assert_eq!(open(&mut pool, server, now), Returned::Serve(client));
        }
        for server in [10, 11, 12] {
            assert_eq!(pool.returned(server, now), Returned::Kept);
        }
        pool.shared().begin_drain();
        let mut given_up = Vec::new();
        for _ in 0..10 {
            now = now + GIVE_UP_AFTER / 2;
            while let Some(server) = pool.idle_too_long(Duration::ZERO, now) {
                given_up.push(server);
                pool.closed(server);
            }
            let granted = [0, 1].map(|client| pool.request(client, now));
            assert_eq!(granted, [Request::Granted(12), Request::Granted(11)]);
            for server in [11, 12] {
                assert_eq!(pool.returned(server, now), Returned::Kept);
            }
        }
        assert_eq!(given_up, [10]);
    }
}

#[test]
fn limits_and_reserve_are_the_same_in_a_drain() {
    let limits = Limits {
        size: 1,
        reserve: 1,
        ..LIMITS
    };
    let mut pool = pool(limits);
    pool.shared().begin_drain();
    for client in 0..3 {
        pool.request(client, Moment(0));
    }
    assert_eq!(open(&mut pool, 10, Moment(0)), Returned::Serve(0));
    assert_eq!(
        pool.next_step(Moment(0)),
        Step::WaitUntil(Moment(0) + LOOK_AGAIN)
    );
    let late = Moment(5_000_000);
    assert_eq!(open(&mut pool, 11, late), Returned::Serve(1));
    assert!(matches!(pool.next_step(late), Step::WaitUntil(_)), "full");
    assert_eq!(pool.returned(10, late), Returned::Serve(2));
}

#[test]
fn a_paused_pool_that_drains_has_no_server_and_opens_none() {
    let limits = Limits {
        size_min: 1,
        ..LIMITS
    };
    let mut pool = pool(limits);
    let now = Moment(1);
    assert_eq!(open(&mut pool, 10, now), Returned::Kept);
    pool.request(0, now);
    pool.shared().begin_drain();
    pool.shared().set_paused(true, Moment(0));
    assert_eq!(pool.returned(10, now), Returned::Close);
    pool.closed(10);
    pool.request(1, now);
    assert_eq!(pool.next_step(now), Step::Wait);
    pool.shared().set_paused(false, Moment(0));
    assert_eq!(open(&mut pool, 11, now), Returned::Serve(1), "resumed");
}

#[test]
fn a_waiter_that_comes_back_takes_an_idle_server() {
    let mut pool = pool(LIMITS);
    let now = Moment(1);
    for client in 0..2 {
        pool.request(client, now);
    }
    assert_eq!(open(&mut pool, 10, now), Returned::Serve(0));
    assert_eq!(open(&mut pool, 11, now), Returned::Serve(1));
    assert_eq!(pool.returned(11, now), Returned::Kept);
    // Server 10 turned out to be broken.
    pool.closed(10);
    assert_eq!(pool.requeue(0, now), Request::Granted(11));
    assert_eq!(pool.requeue(2, now), Request::Queued);
    assert_eq!(pool.oldest_since(), Some(now));
}

#[test]
fn a_waiter_of_a_full_pool_looks_again_soon() {
    // A place may become free on another loop, in another pool that shares a
    // budget, or by new limits, and none of them tells this loop.
    let shared = Shared::new(2, Limits { size: 1, ..LIMITS }, Vec::new());
    let [mut a, mut b] = [0, 1].map(|thread| Pool::new(thread, shared.clone(), false));
    a.request(0, Moment(0));
    assert_eq!(open(&mut a, 10, Moment(0)), Returned::Serve(0));
    b.request(0, Moment(0));
    let Step::WaitUntil(again) = b.next_step(Moment(0)) else {
        panic!("forgotten");
    };
    a.closed(10);
    assert_eq!(b.next_step(again), Step::Open);
}

#[test]
fn an_idle_server_elsewhere_is_asked_for_while_another_is_being_opened() {
    let shared = Shared::new(2, LIMITS, Vec::new());
    let [mut a, mut b] = [0, 1].map(|thread| Pool::new(thread, shared.clone(), false));
    a.request(0, Moment(0));
    assert_eq!(a.next_step(Moment(0)), Step::Open);
    b.request(7, Moment(0));
    assert_eq!(
        b.next_step(Moment(0)),
        Step::Open,
        "which may take its time"
    );
    a.opened();
    assert_eq!(a.returned(10, Moment(0)), Returned::Serve(0));
    assert!(b.forget(7));
    assert_eq!(a.returned(10, Moment(0)), Returned::Kept);
    b.request(8, Moment(0));
    assert_eq!(b.next_step(Moment(0)), Step::Ask(0));
}

#[test]
fn nobody_is_evicted_for_a_minimum() {
    let budget = Arc::new(Budget::new(1));
    let limits = Limits {
        size_min: 1,
        ..LIMITS
    };
    let [mut a, mut b] =
        [0, 1].map(|_| Pool::new(0, Shared::new(1, limits, vec![budget.clone()]), false));
    assert_eq!(open(&mut a, 10, Moment(0)), Returned::Kept);
    assert_eq!(
        b.next_step(Moment(0)),
        Step::Wait,
        "or the two would take the place from each other for ever"
    );
}

#[test]
fn a_place_that_a_waiter_wants_is_not_for_a_minimum() {
    let budget = Arc::new(Budget::new(1));
    let limits = Limits {
        size_min: 1,
        ..LIMITS
    };
    let [mut a, mut b] =
        [0, 1].map(|_| Pool::new(0, Shared::new(1, limits, vec![budget.clone()]), false));
    let now = Moment(1);
    assert_eq!(open(&mut a, 10, now), Returned::Kept);
    b.request(0, now);
    assert_eq!(b.next_step(now), Step::Evict);
    a.closed(10);
    assert_eq!(a.next_step(now), Step::Wait, "or it would take it back");
    assert_eq!(b.next_step(now + LOOK_AGAIN), Step::Open);
}

#[test]
fn there_is_a_pause_after_a_rejected_login_even_if_none_is_configured() {
    let mut pool = pool(Limits {
        login_retry: Duration::ZERO,
        ..LIMITS
    });
    pool.request(0, Moment(0));
    assert_eq!(pool.next_step(Moment(0)), Step::Open);
    pool.open_failed(OpenFailure::Rejected, Moment(0));
    assert_eq!(pool.next_step(Moment(0)), Step::Refuse);
}

#[test]
fn a_budget_that_was_lowered_is_kept_again_as_servers_return() {
    let budget = Arc::new(Budget::new(3));
    let shared = Shared::new(1, Limits { size: 3, ..LIMITS }, vec![budget.clone()]);
    let mut pool = Pool::new(0, shared.clone(), false);
    for client in 0..3 {
        pool.request(client, Moment(0));
    }
    for server in [10, 11, 12] {
        assert!(matches!(
            open(&mut pool, server, Moment(0)),
            Returned::Serve(_)
        ));
    }
    budget.set_limit(1);
    shared.budgets_changed();
    assert!(budget.is_full());
    for (server, excess) in [(10, 2), (11, 1)] {
        assert_eq!(shared.excess(), excess);
        assert_eq!(pool.returned(server, Moment(0)), Returned::Close);
        pool.closed(server);
    }
    assert_eq!(shared.excess(), 0);
    assert_eq!(pool.returned(12, Moment(0)), Returned::Kept);
    budget.set_limit(0);
    assert_eq!(shared.excess(), 0);
}

#[test]
fn what_the_oldest_waiter_waits_for_is_the_limit_in_its_way() {
    let limits = Limits { size: 1, ..LIMITS };
    let budgets = [3, 1].map(|limit| Arc::new(Budget::new(limit)));
    let [mut own, mut other] = [0, 1].map(|_| {
        let shared = Shared::new(1, limits, budgets.to_vec());
        Pool::new(0, shared, false)
    });
    let (longest, late) = (Duration::from_secs(5), Moment(5_000_001));
    let obstacle = |pool: &Pool, now| pool.shared().obstacle(longest, now);
    own.request(0, Moment(1));
    assert_eq!(open(&mut own, 10, Moment(1)), Returned::Serve(0));
    assert_eq!(obstacle(&own, late), None, "nobody waits");
    own.request(1, Moment(1));
    assert_eq!(obstacle(&own, Moment(5_000_000)), None, "not for long");
    // Its pool is full, whatever else is.
    assert_eq!(obstacle(&own, late), Some(Obstacle::Server));
    other.request(0, Moment(1));
    assert_eq!(other.next_step(Moment(1)), Step::Evict);
    assert_eq!(obstacle(&other, late), Some(Obstacle::Budget(1)));
    budgets[1].set_limit(2);
    assert_eq!(obstacle(&other, late), Some(Obstacle::Server));
    other.shared().set_paused(true, Moment(0));
    assert_eq!(obstacle(&other, late), None, "it is meant to wait");
    other.shared().set_paused(false, Moment(5_000_000));
    assert_eq!(obstacle(&other, late), None, "it was meant to");
    let later = Moment(10_000_000);
    assert_eq!(obstacle(&other, later), Some(Obstacle::Server));
}
