//! Of several replicas one acts, whatever befalls the others, the network
//! between, and their clocks.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tests::kubernetes::ClusterOperator;

use super::{
    LEASE, LEASE_S, MASTERS, World,
    api::eventually,
    link::{Link, Passes},
};

impl World {
    /// A replica that reaches the API server by a link of its own.
    pub(super) fn operator_by(&self, link: &Link, name: &str) -> Result<ClusterOperator> {
        self.operator_at_server(&format!("https://{}", link.address()), name)
    }

    /// A replica that asks at an address where there is no TLS.
    pub(super) fn operator_in_clear(&self, at: SocketAddr, name: &str) -> Result<ClusterOperator> {
        self.operator_at_server(&format!("http://{at}"), name)
    }

    fn operator_at_server(&self, server: &str, name: &str) -> Result<ClusterOperator> {
        let direct = self.control_plane.kubeconfig_for(name, MASTERS)?;
        let there = format!("https://{}", self.control_plane.address());
        let kubeconfig = fs::read_to_string(&direct)?;
        ensure!(kubeconfig.contains(&there), "{there} is not in it");
        let kubeconfig = kubeconfig.replace(&there, server);
        let path = self.dir.write(&format!("kubeconfig-{name}"), &kubeconfig)?;
        ClusterOperator::start(&path, &[&LEASE[..], &["--identity", name]].concat())
    }

    /// A replica whose clock shows another time, as `date` would; its monotonic
    /// clock is left alone.
    fn operator_at(&self, offset: &str, name: &str) -> Result<ClusterOperator> {
        let kubeconfig = self.control_plane.kubeconfig_for(name, MASTERS)?;
        ClusterOperator::start_in(
            &kubeconfig,
            &[&LEASE[..], &["--identity", name]].concat(),
            &[
                ("LD_PRELOAD", libfaketime()?.as_os_str()),
                ("FAKETIME", offset.as_ref()),
                ("DONT_FAKE_MONOTONIC", "1".as_ref()),
            ],
        )
    }

    /// Holder and time of renewal.
    fn lease(&self) -> Result<(String, String)> {
        let group = "/apis/coordination.k8s.io/v1";
        let lease = self.api.named(group, "leases", "poolkeeper-operator")?;
        let field = |name: &str| {
            let value = lease["spec"][name].as_str();
            value.map(str::to_owned).with_context(|| lease.to_string())
        };
        Ok((field("holderIdentity")?, field("renewTime")?))
    }

    /// Waits until the lease was renewed a few times, always by the same.
    fn renewals_by(&self, holder: &str) -> Result<()> {
        for _ in 0..6 {
            let before = self.lease()?;
            eventually("the lease to be renewed", || {
                self.lease().is_ok_and(|lease| lease != before)
            })?;
            let (now, _) = self.lease()?;
            ensure!(now == holder, "{now} leads instead of {holder}");
        }
        Ok(())
    }

    /// Who wrote, each turn once.
    fn turns(&self) -> Result<Vec<String>> {
        let writes = self.audit.writes()?;
        let mut turns: Vec<String> = writes.into_iter().map(|write| write.who).collect();
        turns.dedup();
        Ok(turns)
    }
}

/// Debian keeps it in a folder named after the machine.
fn libfaketime() -> Result<PathBuf> {
    let folders = fs::read_dir("/usr/lib")?.flatten();
    folders
        .map(|folder| folder.path().join("faketime/libfaketime.so.1"))
        .find(|path| path.exists())
        .context("libfaketime is missing: Debian's package libfaketime has it")
}

/// How often a replica asks whether the lease is free, at most: a sixth of its
/// time, and a tenth of that longer.
const ASKED_EVERY: Duration = Duration::from_millis(LEASE_S * 1_000 * 11 / 60);
/// Ample for the calls in between, on a machine that is busy.
const CALLS: Duration = Duration::from_secs(4);

#[test]
fn never_do_two_replicas_act() -> Result<()> {
    let world = World::start()?;
    let mut first = world.operator("first")?;
    eventually("the first to lead", || first.leads())?;
    let mut second = world.operator("second")?;
    world.apply(&["shop".to_owned()])?;
    world.wait_for_replicas("shop", 3)?;
    ensure!(!second.leads(), "both lead");
    // What stays as it is, and is told once, whoever leads.
    let taken = ["create", "service", "clusterip", "taken", "--tcp=1:1"];
    world.control_plane.kubectl(&taken)?;
    world.apply(&["taken".to_owned()])?;
    let stalled = |world: &World| {
        let told = world.api.events("taken").into_iter();
        let told = told.filter(|one| one["reason"] == "NameConflict");
        told.collect::<Vec<_>>()
    };
    eventually("an Event", || !stalled(&world).is_empty())?;
    // Who leads later knows from the status what was told.
    eventually("a status that says so", || {
        let condition = world.api.condition("taken", "Stalled");
        condition.is_ok_and(|condition| condition["reason"] == "NameConflict")
    })?;

    // It cannot say that it stops: its lease has to end.
    first.freeze(true);
    world.scale("shop", 4)?;
    world.wait_for_replicas("shop", 4)?;
    eventually("the second to say that it leads", || second.leads())?;
    first.freeze(false);
    eventually("the first to notice", || !first.leads())?;
    world.scale("shop", 5)?;
    world.wait_for_replicas("shop", 5)?;

    // One that ends in order hands over at once, long before its lease ends.
    let begin = Instant::now();
    second.terminate()?;
    eventually("the first to lead again", || first.leads())?;
    let took = begin.elapsed();
    println!("handed over in {:.1} s", took.as_secs_f32());
    ensure!(took < ASKED_EVERY + CALLS, "handed over in {took:?}");
    world.scale("shop", 3)?;
    world.wait_for_replicas("shop", 3)?;

    // One that ends without a word is missed once its lease is over: it is seen
    // when it is asked for, as it was renewed last and that it is over.
    let third = world.operator("third")?;
    eventually("the third to have asked for the lease", || {
        let asked = third.sum("poolkeeper_operator_api_calls_total", |of| {
            of.contains("leases")
        });
        asked.is_ok_and(|asked| asked >= 2.0)
    })?;
    let begin = Instant::now();
    first.kill();
    eventually("the third to lead", || third.leads())?;
    let took = begin.elapsed();
    println!("taken over in {:.1} s", took.as_secs_f32());
    let most = Duration::from_secs(LEASE_S) + 2 * ASKED_EVERY + CALLS;
    ensure!(took < most, "taken over in {took:?}");
    world.scale("shop", 4)?;
    world.wait_for_replicas("shop", 4)?;

    // As their turns followed each other, so did their writes.
    let turns = world.turns()?;
    let wanted = ["first", "second", "first", "third"];
    ensure!(turns == wanted, "{turns:?}");
    let told = stalled(&world);
    ensure!(told.len() == 1 && told[0]["series"].is_null(), "{told:?}");
    Ok(())
}

/// A replica that is cut off stops before another begins, also where what it
/// sends still arrives and only the answers are lost.
#[test]
fn a_replica_that_is_cut_off_stops_before_another_acts() -> Result<()> {
    for passes in [Passes::Nothing, Passes::Requests] {
        let world = World::start()?;
        let link = Link::to(world.control_plane.address())?;
        let first = world.operator_by(&link, "first")?;
        eventually("the first to lead", || first.leads())?;
        let second = world.operator("second")?;
        world.apply(&["shop".to_owned()])?;
        world.wait_for_replicas("shop", 3)?;

        link.let_pass(passes);
        world.scale("shop", 4)?;
        eventually("the second to lead", || {
            let (first, second) = (first.leads(), second.leads());
            assert!(!(first && second), "both lead, with {passes:?} passing");
            second
        })?;
        world.wait_for_replicas("shop", 4)?;

        link.let_pass(Passes::Everything);
        world.scale("shop", 5)?;
        world.wait_for_replicas("shop", 5)?;
        world.renewals_by("second")?;
        let turns = world.turns()?;
        ensure!(turns == ["first", "second"], "{passes:?}: {turns:?}");
    }
    Ok(())
}

/// Leases carry times, which nobody may believe: clocks differ.
#[test]
fn clocks_that_differ_move_no_lease() -> Result<()> {
    let world = World::start()?;
    let mut early = world.operator_at("-1h", "early")?;
    eventually("the early one to lead", || early.leads())?;
    let late = world.operator_at("+1h", "late")?;
    world.apply(&["shop".to_owned()])?;
    world.wait_for_replicas("shop", 3)?;
    // By the clock of the late one every renewal was two hours ago.
    world.renewals_by("early")?;
    let (_, by_early) = world.lease()?;

    early.kill();
    eventually("the late one to lead", || late.leads())?;
    // By the clock of the early one the lease is good for two hours.
    let early = world.operator_at("-1h", "early")?;
    world.renewals_by("late")?;
    let (_, by_late) = world.lease()?;
    let hours = [&by_early, &by_late].map(|time| time.get(..13));
    ensure!(
        hours[0] < hours[1],
        "their clocks agree: {by_early}, {by_late}"
    );
    drop(late);
    eventually("the early one to lead again", || early.leads())?;
    world.scale("shop", 4)?;
    world.wait_for_replicas("shop", 4)?;
    let turns = world.turns()?;
    // The late one may have found nothing to write.
    ensure!(
        turns == ["early"] || turns == ["early", "late", "early"],
        "{turns:?}"
    );
    Ok(())
}
