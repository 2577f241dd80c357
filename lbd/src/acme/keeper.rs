//! The thread: looks at what has changed, has `lbd_core::acme` say what is to be ordered, and does it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::config::{Acme as Settings, Config, Service};
use common::time::Now;
use instant_acme::Account;
use lbd_core::acme::{
    Agenda, Challenge, FailureKind, Issued, Names, Progress, Situation, Told, Validity, may_order,
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

/// For all of an order.
const ORDER_MAX: Duration = Duration::from_secs(300);

/// So long what is to be answered is on its way to the other node before the authority asks: the virtual IP may move.
const SETTLE: Duration = Duration::from_millis(300);

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
        }
    }

    async fn run(&mut self) {
        let shared = Arc::clone(&self.shared);
        let mut roles = shared.vrrpd.subscribe();
        loop {
            self.look();
            let next = self.agenda.next(self.now());
            self.show();
            if let Some(names) = next {
                self.order(&names).await;
                continue;
            }
            let now = self.now();
            let paired = self.config.as_ref().is_some_and(|config| config.nodes.len() > 1);
            let look = if paired { LOOK_EVERY_PAIRED } else { LOOK_EVERY };
            let left = self.agenda.deadline(now).map_or(look, |deadline| (deadline - now.at).min(look));
            tokio::select! {
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
                && error.kind() != std::io::ErrorKind::NotFound
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
        let taken = self.shared.acme.taken(|names| self.agenda.wants(names));
        for (names, bundle) in taken {
            if self.bundles.get(&names) == Some(&bundle) {
                continue;
            }
            let Some(slot) = snapshot.tls.slot(&names) else { continue };
            match self.adopt(acme, slot, bundle, true) {
                Ok(Some(validity)) => {
                    self.agenda.has(&names, validity);
                    self.shared.acme.counts.received.fetch_add(1, Ordering::Relaxed);
                    tracing::info!(%names, "certificate taken from the other node");
                }
                Ok(None) => {}
                Err(why) => {
                    self.shared.acme.counts.refused.fetch_add(1, Ordering::Relaxed);
                    tracing::error!(%names, "a certificate of the other node's is not used: {why}");
                }
            }
        }
    }

    /// Has a bundle kept and served with; none if it is not `better` than what there is, and has to be.
    fn adopt(
        &mut self,
        acme: &Settings,
        slot: &Slot,
        bundle: String,
        better: bool,
    ) -> Result<Option<Validity>, String> {
        let path = bundle_path(acme, &slot.names);
        let kept = |error: std::io::Error| format!("cannot keep it in {}: {error}", path.display());
        store::prepare(&acme.folder).map_err(kept)?;
        let fresh = store::write_beside(&path, bundle.as_bytes()).map_err(kept)?;
        let site = match read_bundle(&fresh, &path, &slot.names) {
            Ok(site) => site,
            Err(why) => {
                remove(&fresh);
                return Err(why.to_string());
            }
        };
        let validity = site.validity();
        if better && !self.agenda.is_better(&slot.names, validity) {
            remove(&fresh);
            return Ok(None);
        }
        store::put_in_place(&fresh, &path).map_err(kept)?;
        slot.fill(site);
        self.bundles.insert(slot.names.clone(), bundle);
        self.publish();
        Ok(Some(validity))
    }

    /// Orders a certificate, and takes note of how that ended.
    async fn order(&mut self, names: &Names) {
        let obtained = self.obtain(names).await;
        self.pend(&[]);
        let counts = &self.shared.acme.counts;
        let (failed, was_placed) = match obtained {
            Ok(validity) => {
                counts.issued.fetch_add(1, Ordering::Relaxed);
                tracing::info!(%names, "certificate ordered");
                self.agenda.succeeded(validity);
                return;
            }
            Err(failed) => failed,
        };
        counts.failures[failed.kind.index()].fetch_add(1, Ordering::Relaxed);
        self.agenda.failed(self.now(), failed.kind, &failed.message, was_placed);
        let next = self.agenda.view(self.now(), names).and_then(|view| view.next);
        let again_in_seconds = next.map(|next| next.as_secs());
        let kind = failed.kind.name();
        tracing::error!(%names, kind, again_in_seconds, "no certificate: {}", failed.message);
        // The directory is read anew, for it may name other addresses by then.
        self.account = None;
        let acme = self.config.as_ref().and_then(|config| config.acme.as_ref());
        if let Some(acme) = acme.filter(|_| failed.account_is_gone) {
            remove(&store::account_path(acme));
        }
    }

    /// Answers also, of a failure, whether the authority has counted the order.
    async fn obtain(&mut self, names: &Names) -> Result<Validity, (Failed, bool)> {
        let local = |why: String| Failed::new(FailureKind::Local, why);
        let snapshot = self.shared.snapshot.load_full();
        let Some(acme) = &snapshot.config.acme else {
            return Err((local("the configuration has changed".to_owned()), false));
        };
        let folder = acme.folder.display();
        store::prepare(&acme.folder)
            .map_err(|error| (local(format!("cannot keep anything in {folder}: {error}")), false))?;
        let account = match &self.account {
            Some(account) => account.clone(),
            None => {
                let Some(tls) = snapshot.tls.directory() else {
                    let why = "this host has no certificates of authorities, such as Debian's package ca-certificates brings: \
                               name those of the directory's with acme.roots";
                    return Err((local(why.to_owned()), false));
                };
                let made = order::account(acme, &Https::new(tls)).await.map_err(|failed| (failed, false))?;
                self.account.insert(made).clone()
            }
        };
        self.agenda.placing(self.now());
        self.shared.acme.counts.placed.fetch_add(1, Ordering::Relaxed);
        self.show();
        let settle = if snapshot.config.is_replicated() { SETTLE } else { Duration::ZERO };
        let pend = |challenges: Vec<Challenge>| self.pend(&challenges);
        let placed = timeout(ORDER_MAX, order::place(&account, names, &pend, settle)).await;
        let late = || Failed::new(FailureKind::Timeout, format!("no certificate within {ORDER_MAX:?}"));
        let bundle = placed.unwrap_or_else(|_| Err(late())).map_err(|failed| (failed, true))?;
        // A reload may have come meanwhile.
        let snapshot = self.shared.snapshot.load_full();
        let gone = || (local("the configuration no longer wants it".to_owned()), true);
        let acme = snapshot.config.acme.as_ref().ok_or_else(gone)?;
        let slot = snapshot.tls.slot(names).ok_or_else(gone)?;
        let bad = |why: String| {
            (Failed::new(FailureKind::Certificate, format!("what came is of no use: {why}")), true)
        };
        let validity = self.adopt(acme, slot, bundle, false).map_err(bad)?;
        validity.ok_or_else(gone)
    }

    /// Has these questions answered on both nodes.
    fn pend(&self, challenges: &[Challenge]) {
        self.shared.acme.pend(challenges);
        self.publish();
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

/// The instance on whose virtual IPs the first service with these names listens, if it does on one.
fn instance_of(config: &Config, names: &Names) -> Option<String> {
    let has = |service: &&Service| {
        let tls = service.http.as_ref().and_then(|http| http.tls.as_ref());
        tls.and_then(|tls| Names::new(tls.acme.iter().cloned())).as_ref() == Some(names)
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
