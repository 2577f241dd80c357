//! The thread: looks at what has changed, has `lbd_core::acme` say what is to be ordered, and does it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::config::{Acme as Settings, Config, Service};
use common::time::{Instant, Now};
use instant_acme::Account;
use lbd_core::acme::{
    Agenda, Challenge, FailureKind, Issued, Names, Progress, Situation, Told, Validity, may_order, readable,
};
use lbd_core::replication::Notes;
use tokio::sync::watch;
use tokio::time::timeout;

use super::order::{self, Failed};
use super::{NOTE_PREFIX, https::Https, store};
use crate::random;
use crate::shared::Shared;
use crate::snapshot::Snapshot;
use crate::tls::{Slot, bundle_path, read_bundle, read_bundle_text};
use crate::view::OrderedView;

/// How often it is looked at what nobody tells: the wall clock, and of a pair how far replication is.
const LOOK_EVERY: Duration = Duration::from_secs(30);
const LOOK_EVERY_PAIRED: Duration = Duration::from_secs(1);

/// For all of an order; and for its account before.
const ORDER_MAX: Duration = Duration::from_secs(300);

/// So long what is to be answered is on its way to the other node before the authority asks: the virtual IP may move.
const SETTLE: Duration = Duration::from_millis(300);

/// The pause after a bundle of the other node's could not be kept; doubled each time, up to the longest one.
const KEEP_AGAIN: Duration = Duration::from_secs(2);
const KEEP_AGAIN_MAX: Duration = Duration::from_secs(300);

/// Runs until it is told to stop.
pub(super) fn run(shared: Arc<Shared>, mut stopped: watch::Receiver<bool>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "no certificates are ordered: there is no runtime for it");
            return;
        }
    };
    runtime.block_on(async {
        let mut keeper = Keeper::new(shared);
        tokio::select! {
            () = keeper.run() => {}
            // Fails when the daemon is gone, which is the same.
            _ = stopped.wait_for(|stop| *stop) => {}
        }
    });
    // A name that is being looked up is not waited for.
    runtime.shutdown_background();
}

struct Keeper {
    shared: Arc<Shared>,
    agenda: Agenda,
    /// The snapshot that was looked at last.
    generation: u64,
    config: Option<Arc<Config>>,
    /// The instance on whose virtual IPs the first service with the names listens, if it does on one.
    instances: BTreeMap<Names, Option<String>>,
    /// What is on the disk.
    bundles: BTreeMap<Names, String>,
    account: Option<Account>,
    /// How often in a row something of the other node's could not be kept.
    unkept: u32,
    /// Nothing is taken from the other node before that.
    receive_at: Instant,
}

/// An order that is under way.
struct Work {
    names: Names,
    /// The configuration that it began with.
    config: Arc<Config>,
}

/// What is waited for of an order.
type Step = Pin<Box<dyn Future<Output = (Work, Stepped)>>>;

/// What has come.
enum Stepped {
    Account(Result<Account, Failed>),
    Bundle(Result<String, Failed>),
}

/// Why a bundle is not used.
enum Unadopted {
    /// It cannot be kept here, for now.
    Unkept(String),
    /// It is of no use.
    Unfit(String),
}

impl Keeper {
    fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            agenda: Agenda::new(random::number()),
            generation: 0,
            config: None,
            instances: BTreeMap::new(),
            bundles: BTreeMap::new(),
            account: None,
            unkept: 0,
            receive_at: Instant::ZERO,
        }
    }

    async fn run(&mut self) {
        let shared = Arc::clone(&self.shared);
        let mut roles = shared.vrrpd.subscribe();
        // One order at a time; what else comes is seen to meanwhile.
        let mut under_way: Option<Step> = None;
        loop {
            self.look();
            if under_way.is_none()
                && let Some(names) = self.agenda.next(self.now())
            {
                under_way = self.begin(names);
                if under_way.is_none() {
                    continue;
                }
            }
            self.show();
            let now = self.now();
            let paired = self.config.as_ref().is_some_and(|config| config.nodes.len() > 1);
            let look = if paired { LOOK_EVERY_PAIRED } else { LOOK_EVERY };
            let left = self.agenda.deadline(now).map_or(look, |deadline| (deadline - now.at).min(look));
            tokio::select! {
                (work, stepped) = next_of(&mut under_way) => under_way = self.go_on(work, stepped),
                () = shared.acme.wake.notified() => {}
                // Its sender lives in `shared`.
                _ = roles.changed() => {}
                () = tokio::time::sleep(left) => {}
            }
        }
    }

    fn now(&self) -> Now {
        self.shared.clock.now()
    }

    /// Looks at everything that may be new.
    fn look(&mut self) {
        let snapshot = self.shared.snapshot.load_full();
        if snapshot.generation != self.generation {
            self.generation = snapshot.generation;
            // Most snapshots differ in their targets only.
            if !self.config.as_ref().is_some_and(|config| Arc::ptr_eq(config, &snapshot.config)) {
                self.configure(&snapshot);
            }
        }
        self.receive(&snapshot);
        let roles = self.shared.vrrpd.borrow().roles.clone();
        let config = &snapshot.config;
        let is_replicated = config.is_replicated();
        let in_step = self.shared.peer.is_in_step();
        for (names, instance) in &self.instances {
            let situation = Situation {
                is_paired: config.nodes.len() > 1,
                is_first: config.nodes.first().is_some_and(|node| node.name == self.shared.life.node),
                role: instance.as_ref().and_then(|instance| roles.get(instance).copied()),
                on_virtual_ip: instance.is_some(),
                is_replicated,
                in_step,
                uptime: Duration::from_millis(self.shared.clock.now_ms()),
            };
            self.agenda.may_order(names, may_order(situation));
        }
    }

    /// Takes over another configuration.
    fn configure(&mut self, snapshot: &Snapshot) {
        let config = Arc::clone(&snapshot.config);
        // Directory, roots and contact may be others.
        self.account = None;
        let wanted: BTreeSet<Names> = snapshot.tls.ordered().map(|slot| slot.names.clone()).collect();
        self.shared.acme.want(&wanted);
        // The folder may be another one.
        (self.unkept, self.receive_at) = (0, Instant::ZERO);
        let renew_before = config.acme.as_ref().and_then(|acme| acme.renew_before);
        self.agenda.configure(self.now(), renew_before, &wanted);
        self.bundles.retain(|names, _| wanted.contains(names));
        self.instances = wanted.iter().map(|names| (names.clone(), instance_of(&config, names))).collect();
        if let Some(acme) = &config.acme {
            for slot in snapshot.tls.ordered() {
                self.take_over(acme, slot);
            }
            let paths: BTreeSet<_> = wanted.iter().map(|names| bundle_path(acme, names)).collect();
            if let Err(error) = store::tidy(&acme.folder, |path| paths.contains(path))
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(folder = %acme.folder.display(), %error, "cannot look for certificates that nobody wants");
            }
        }
        self.config = Some(config);
        self.publish();
    }

    /// Takes note of a certificate that is there from before: its text is for the other node, and for the disk if the folder is another one.
    fn take_over(&mut self, acme: &Settings, slot: &Slot) {
        let Some(validity) = slot.validity() else { return };
        self.agenda.has(&slot.names, validity);
        let path = bundle_path(acme, &slot.names);
        match (self.bundles.get(&slot.names), path.exists()) {
            (Some(_), true) => {}
            (Some(bundle), false) => {
                let kept = store::prepare(&acme.folder).and_then(|()| store::write(&path, bundle.as_bytes()));
                if let Err(error) = kept {
                    tracing::error!(file = %path.display(), %error, "cannot keep a certificate");
                }
            }
            (None, _) => match read_bundle_text(&path) {
                Ok(bundle) => drop(self.bundles.insert(slot.names.clone(), bundle)),
                Err(error) => {
                    tracing::warn!(file = %path.display(), %error, "the other node is not told of a certificate");
                }
            },
        }
    }

    /// Takes what the other node has ordered, as far as it is better than what is here.
    fn receive(&mut self, snapshot: &Snapshot) {
        let Some(acme) = &snapshot.config.acme else { return };
        if self.now().at < self.receive_at {
            return;
        }
        let mut taken = self.shared.acme.taken().into_iter();
        while let Some((names, bundle)) = taken.next() {
            if self.bundles.get(&names) == Some(&bundle) {
                continue;
            }
            let Some(slot) = snapshot.tls.slot(&names) else { continue };
            match self.adopt(acme, slot, &bundle, true) {
                Ok(Some(validity)) => {
                    self.unkept = 0;
                    self.agenda.has(&names, validity);
                    self.shared.acme.counts.received.fetch_add(1, Ordering::Relaxed);
                    tracing::info!(%names, "certificate taken from the other node");
                }
                Ok(None) => {}
                Err(Unadopted::Unfit(why)) => {
                    self.shared.acme.counts.refused.fetch_add(1, Ordering::Relaxed);
                    tracing::error!(%names, "a certificate of the other node's is not used: {why}");
                }
                Err(Unadopted::Unkept(why)) => {
                    self.cannot_keep(&names, &why);
                    // The others would fare no better; the other node does not tell of them again.
                    for (names, bundle) in std::iter::once((names, bundle)).chain(taken) {
                        self.shared.acme.put_back(&names, bundle);
                    }
                    return;
                }
            }
        }
    }

    /// Takes note that this host cannot keep what the other node has ordered: that is tried again after a pause.
    fn cannot_keep(&mut self, names: &Names, why: &str) {
        let pause = KEEP_AGAIN.saturating_mul(1 << self.unkept.min(16)).min(KEEP_AGAIN_MAX);
        self.unkept = self.unkept.saturating_add(1);
        self.receive_at = self.now().at + pause;
        self.shared.acme.counts.failures[FailureKind::Local.index()].fetch_add(1, Ordering::Relaxed);
        let again_in_seconds = pause.as_secs();
        tracing::error!(%names, again_in_seconds, "a certificate of the other node's is not used yet: {why}");
    }

    /// Has a bundle kept and served with; none if it is not `better` than what there is, and has to be.
    fn adopt(
        &mut self,
        acme: &Settings,
        slot: &Slot,
        bundle: &str,
        better: bool,
    ) -> Result<Option<Validity>, Unadopted> {
        let path = bundle_path(acme, &slot.names);
        let kept =
            |error: io::Error| Unadopted::Unkept(format!("cannot keep it in {}: {error}", path.display()));
        store::prepare(&acme.folder).map_err(kept)?;
        let fresh = store::write_beside(&path, bundle.as_bytes()).map_err(kept)?;
        let site = match read_bundle(&fresh, &path, &slot.names) {
            Ok(site) => site,
            Err(why) => {
                remove(&fresh);
                return Err(Unadopted::Unfit(why.to_string()));
            }
        };
        let validity = site.validity();
        if better && !self.agenda.is_better(&slot.names, validity) {
            remove(&fresh);
            return Ok(None);
        }
        store::put_in_place(&fresh, &path).map_err(kept)?;
        slot.fill(site);
        self.bundles.insert(slot.names.clone(), bundle.to_owned());
        self.publish();
        Ok(Some(validity))
    }

    /// Begins an order; none if that has failed already.
    fn begin(&mut self, names: Names) -> Option<Step> {
        let snapshot = self.shared.snapshot.load_full();
        let work = Work { names, config: Arc::clone(&snapshot.config) };
        let local = |why: String| Failed::new(FailureKind::Local, why);
        let Some(acme) = &snapshot.config.acme else {
            return self.failed(&work, &changed(), false);
        };
        if let Err(error) = store::prepare(&acme.folder) {
            let why = format!("cannot keep anything in {}: {error}", acme.folder.display());
            return self.failed(&work, &local(why), false);
        }
        if let Some(account) = self.account.clone() {
            return Some(self.place(work, account));
        }
        let Some(tls) = snapshot.tls.directory() else {
            let why = "this host has no certificates of authorities, such as Debian's package ca-certificates brings: name those of the \
                       directory's with acme.roots";
            return self.failed(&work, &local(why.to_owned()), false);
        };
        let (https, acme) = (Https::new(tls), acme.clone());
        Some(Box::pin(async move {
            let made = timeout(ORDER_MAX, order::account(&acme, &https)).await;
            let late = || Failed::new(FailureKind::Timeout, format!("no account within {ORDER_MAX:?}"));
            (work, Stepped::Account(made.unwrap_or_else(|_| Err(late()))))
        }))
    }

    /// Goes on with an order; none if it has come to its end.
    fn go_on(&mut self, work: Work, stepped: Stepped) -> Option<Step> {
        match stepped {
            Stepped::Account(Ok(account)) => {
                // It may be one of another directory by now.
                if self.shared.snapshot.load().config.acme != work.config.acme {
                    return self.failed(&work, &changed(), false);
                }
                self.account = Some(account.clone());
                Some(self.place(work, account))
            }
            Stepped::Account(Err(failed)) => self.failed(&work, &failed, false),
            Stepped::Bundle(Ok(bundle)) => {
                self.shared.acme.pend(&self.shared, &[]);
                match self.take(&work.names, &bundle) {
                    Ok(validity) => {
                        self.shared.acme.counts.issued.fetch_add(1, Ordering::Relaxed);
                        tracing::info!(names = %work.names, "certificate ordered");
                        self.agenda.succeeded(validity);
                        None
                    }
                    Err(failed) => self.failed(&work, &failed, true),
                }
            }
            Stepped::Bundle(Err(failed)) => {
                self.shared.acme.pend(&self.shared, &[]);
                self.failed(&work, &failed, true)
            }
        }
    }

    /// Places an order, which counts from now on.
    fn place(&mut self, work: Work, account: Account) -> Step {
        self.agenda.placing(self.now());
        let shared = Arc::clone(&self.shared);
        shared.acme.counts.placed.fetch_add(1, Ordering::Relaxed);
        let settle = if work.config.is_replicated() { SETTLE } else { Duration::ZERO };
        Box::pin(async move {
            let pend = |challenges: Vec<Challenge>| shared.acme.pend(&shared, &challenges);
            let placed = timeout(ORDER_MAX, order::place(&account, &work.names, &pend, settle)).await;
            let late = || Failed::new(FailureKind::Timeout, format!("no certificate within {ORDER_MAX:?}"));
            let bundle = placed.unwrap_or_else(|_| Err(late()));
            (work, Stepped::Bundle(bundle))
        })
    }

    /// Takes in what was ordered.
    fn take(&mut self, names: &Names, bundle: &str) -> Result<Validity, Failed> {
        // A reload may have come meanwhile.
        let snapshot = self.shared.snapshot.load_full();
        let gone = || Failed::new(FailureKind::Local, "the configuration no longer wants it".to_owned());
        let acme = snapshot.config.acme.as_ref().ok_or_else(gone)?;
        let slot = snapshot.tls.slot(names).ok_or_else(gone)?;
        let validity = self.adopt(acme, slot, bundle, false).map_err(|error| match error {
            Unadopted::Unkept(why) => Failed::new(FailureKind::Local, why),
            Unadopted::Unfit(why) => {
                Failed::new(FailureKind::Certificate, format!("what came is of no use: {why}"))
            }
        })?;
        validity.ok_or_else(gone)
    }

    /// Takes note that an order has come to nothing; `was_placed`: the authority had counted it. There is nothing more to be done for it.
    fn failed(&mut self, work: &Work, failed: &Failed, was_placed: bool) -> Option<Step> {
        let names = &work.names;
        self.shared.acme.counts.failures[failed.kind.index()].fetch_add(1, Ordering::Relaxed);
        self.agenda.failed(self.now(), failed.kind, &failed.message, was_placed);
        let next = self.agenda.view(self.now(), names).and_then(|view| view.next);
        let again_in_seconds = next.map(|next| next.as_secs());
        let kind = failed.kind.name();
        tracing::error!(%names, kind, again_in_seconds, "no certificate: {}", readable(&failed.message));
        // The directory is read anew, for it may name other addresses by then.
        self.account = None;
        if let Some(acme) = work.config.acme.as_ref().filter(|_| failed.account_is_gone) {
            remove(&store::account_path(acme));
        }
        None
    }

    /// Has the other node know what is here.
    fn publish(&self) {
        let mut notes = Notes::new();
        for (names, bundle) in &self.bundles {
            let told = Told::Issued(Issued { names: names.to_vec(), bundle: bundle.clone() });
            match told.encode() {
                Ok(bytes) => {
                    let name = format!("{NOTE_PREFIX}{}", names.file_stem());
                    notes.insert(Arc::from(name), Arc::from(bytes));
                }
                Err(error) => {
                    tracing::error!(%names, "the other node is not told of this certificate: {error}");
                }
            }
        }
        self.shared.acme.publish(&self.shared, notes);
    }

    /// Has everybody see how far things are.
    fn show(&self) {
        let now = self.now();
        let snapshot = self.shared.snapshot.load();
        for slot in snapshot.tls.ordered() {
            let Some(view) = self.agenda.view(now, &slot.names) else { continue };
            let failure = view.last_failure.as_ref();
            let after = |span: Duration| {
                now.unix.as_millis().saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
            };
            slot.show(OrderedView {
                names: slot.names.to_vec(),
                state: match view.progress {
                    Progress::Missing => "missing",
                    Progress::UnderWay => "under_way",
                    Progress::Here => "here",
                }
                .to_owned(),
                ordered_here: view.orders,
                failures: view.failures,
                last_failure: failure.map(|it| it.message.clone()),
                last_failure_kind: failure.map(|it| it.kind.name().to_owned()),
                last_failure_unix_ms: failure.map(|it| it.at.as_millis()),
                next_order_unix_ms: view.next.map(after),
            });
        }
    }
}

/// What comes next of an order; nothing ever if none is under way.
async fn next_of(under_way: &mut Option<Step>) -> (Work, Stepped) {
    match under_way {
        Some(step) => step.await,
        None => std::future::pending().await,
    }
}

fn changed() -> Failed {
    Failed::new(FailureKind::Local, "the configuration has changed")
}

/// The instance on whose virtual IPs the first service with these names listens, if it does on one.
fn instance_of(config: &Config, names: &Names) -> Option<String> {
    let directory = &config.acme.as_ref()?.directory;
    let has = |service: &&Service| {
        let tls = service.http.as_ref().and_then(|http| http.tls.as_ref());
        tls.and_then(|tls| Names::new(directory, tls.acme.iter().cloned())).as_ref() == Some(names)
    };
    let service = config.services.iter().find(has)?;
    service.listen.iter().find_map(|listen| listen.instance.clone())
}

/// Removes a file that is of no use; one that stays is written over next time.
fn remove(path: &Path) {
    if let Err(error) = store::remove(path) {
        tracing::warn!(file = %path.display(), %error, "cannot remove a file");
    }
}
