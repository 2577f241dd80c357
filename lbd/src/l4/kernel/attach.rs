//! The program on interfaces: where it is, how, and why in that way.
//!
//! - **tcx** (Linux 6.6 and newer): a link, pinned, whose program is replaced in one step: no packet passes between the old
//!   program and the new one, and none is missed while `lbd` is not there.
//! - **clsact** (before, or where the configuration asks for it): a filter by netlink, which stays when `lbd` ends and is replaced in one step too.
//! - **XDP** in the driver, only where the configuration asks for it. A driver that has none is an error: neither the generic
//!   mode, which costs more than TC, nor TC takes its place unasked.
//!
//! Beside the program that forwards there are those of health checks ([`Part`]), in TC everywhere.
//!
//! Others may take it off (`tc qdisc del dev eth0 clsact`, a removed pin), and the kernel does not tell: whether it is still there is
//! looked at, and it is attached again.
//!
//! What is attached is known by its pin in the node's folder: `tcx_INDEX` and `xdp_INDEX` are links, `clsact_INDEX` is the program
//! of a filter; `check_out_` or `check_in_` is in front of those of health checks, `chance_` of those of the second chance. So a later life
//! finds what to remove.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use aya::Ebpf;
use aya::programs::links::{FdLink, LinkOrder, PinnedLink};
use aya::programs::tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle};
use aya::programs::{Program, SchedClassifier, TcAttachType, Xdp, XdpMode};

use common::config::Attach;

use super::KernelError;
use super::bpf;
use super::netlink::Netlink;

/// Where our filters are among those of an interface: early, and always in the same place. What is nothing to forward is looked at for the
/// second chance.
const PRIORITY: u16 = 7;
const PRIORITY_CHANCE: u16 = 8;
const HANDLE: TcHandle = TcHandle::new(0, 0x7a);
const HANDLE_CHANCE: TcHandle = TcHandle::new(0, 0x7b);
const HANDLE_CHANCE_LINK: TcHandle = TcHandle::new(0, 0x7c);

/// Programs at one interface are attached by two threads, and the one that forwards has to be asked before the second chance: the answer of a
/// target may be for a port of a virtual IP that is a proxied service's, too, and is of no connection that the other node could have.
static TCX_ORDER: Mutex<()> = Mutex::new(());

/// The programs' names in the object.
pub(super) const TC_PROGRAM: &str = "forward_tc";
const XDP_PROGRAM: &str = "forward_xdp";

/// What the program at an interface is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// Forwarding, and in TC answers to health checks.
    Forward,
    /// What health checks send, at the loopback interface.
    CheckOut,
    /// Answers to health checks, where forwarding is done by XDP.
    CheckIn,
    /// Packets of proxied connections that the other node may have.
    Chance,
    /// What of them the other node sends through a tunnel.
    ChanceIn,
    /// The tunnel's packets on the link between the nodes.
    ChanceLink,
}

impl Part {
    const ALL: [Self; 6] =
        [Self::Forward, Self::CheckOut, Self::CheckIn, Self::Chance, Self::ChanceIn, Self::ChanceLink];

    /// The program in TC.
    const fn program(self) -> &'static str {
        match self {
            Self::Forward => TC_PROGRAM,
            Self::CheckOut => "check_out",
            Self::CheckIn => "check_in",
            Self::Chance => "second_chance",
            Self::ChanceIn => "second_chance_in",
            Self::ChanceLink => "second_chance_link",
        }
    }

    const fn side(self) -> TcAttachType {
        match self {
            Self::Forward | Self::CheckIn | Self::Chance | Self::ChanceIn | Self::ChanceLink => {
                TcAttachType::Ingress
            }
            Self::CheckOut => TcAttachType::Egress,
        }
    }

    /// What its pins' names begin with.
    const fn prefix(self) -> &'static str {
        match self {
            Self::Forward => "",
            Self::CheckOut => "check_out_",
            Self::CheckIn => "check_in_",
            Self::Chance => "chance_",
            Self::ChanceIn => "chance_in_",
            Self::ChanceLink => "chance_link_",
        }
    }

    /// Where its filter of clsact is among those of the interface.
    const fn priority(self) -> u16 {
        match self {
            Self::Forward | Self::CheckOut | Self::CheckIn | Self::ChanceIn => PRIORITY,
            Self::Chance | Self::ChanceLink => PRIORITY_CHANCE,
        }
    }

    /// The number of its filter of clsact: at an interface those of the second chance come beside others.
    const fn handle(self) -> TcHandle {
        match self {
            Self::Forward | Self::CheckOut | Self::CheckIn | Self::ChanceIn => HANDLE,
            Self::Chance => HANDLE_CHANCE,
            Self::ChanceLink => HANDLE_CHANCE_LINK,
        }
    }
}

/// A part at the interface with this index.
pub(super) type Place = (Part, u32);

/// How the program is on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum How {
    /// By a tcx link.
    Tcx,
    /// As a filter of clsact.
    Clsact,
    /// In the driver.
    Xdp,
}

impl How {
    /// Its name in the status.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
            Self::Xdp => "xdp",
        }
    }

    const ALL: [Self; 3] = [Self::Tcx, Self::Clsact, Self::Xdp];

    /// What its pins' names begin with, behind the part's.
    const fn prefix(self) -> &'static str {
        match self {
            Self::Tcx => "tcx_",
            Self::Clsact => "clsact_",
            Self::Xdp => "xdp_",
        }
    }
}

/// An interface that the program is to be on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Its name.
    pub(super) name: String,
    /// How, as the configuration has it.
    pub(super) way: Attach,
    /// What it is there for.
    pub(super) purpose: String,
}

/// An interface that it is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attached {
    /// Its name.
    pub(crate) name: String,
    /// How.
    pub(crate) how: How,
    /// Why so.
    pub(crate) why: String,
    /// What it is there for.
    pub(crate) purpose: String,
    wanted: Attach,
    /// The number of the program.
    program: u32,
}

/// Where the program is.
#[derive(Debug)]
pub(super) struct Attachments {
    folder: PathBuf,
    /// Where the second chance has its pins.
    chance: PathBuf,
    tcx: bool,
    present: BTreeMap<Place, Attached>,
    /// To look for filters; none before it is needed.
    filters: Option<Netlink>,
    /// Where somebody has taken it off, and it has not been attached again.
    lost: BTreeSet<Place>,
    attached_again: u64,
}

impl Attachments {
    /// Pins go to `folder`; those of the second chance are in `chance`.
    pub(super) fn new(folder: &Path, chance: &Path, tcx: bool) -> Self {
        Self {
            folder: folder.to_owned(),
            chance: chance.to_owned(),
            tcx,
            present: BTreeMap::new(),
            filters: None,
            lost: BTreeSet::new(),
            attached_again: 0,
        }
    }

    /// How often the program was attached where somebody else had taken it off.
    pub(super) const fn attached_again(&self) -> u64 {
        self.attached_again
    }

    /// Whether the program is still everywhere where it was put. A system call or two for each place.
    pub(super) fn are_in_place(&mut self) -> bool {
        let places: Vec<Place> = self.present.keys().copied().collect();
        places.into_iter().all(|place| self.missing(place).is_none())
    }

    /// Why the program is not any more where it was put; none if it is, or if the kernel does not say.
    fn missing(&mut self, place: Place) -> Option<String> {
        let Attached { how, program, .. } = *self.present.get(&place)?;
        let found = if how == How::Clsact {
            self.filter(place)
        } else {
            match bpf::link_state(&self.path(place, how)) {
                Ok(state) => Ok((state.interface == place.1).then_some(state.program)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Some("its pin is gone".to_owned());
                }
                Err(error) => Err(error.to_string()),
            }
        };
        match found {
            Ok(Some(found)) if found == program => None,
            Ok(Some(_)) => Some("another program is in its place".to_owned()),
            Ok(None) => Some("it was taken off".to_owned()),
            Err(error) => {
                tracing::debug!(error, "cannot see whether a program is still attached");
                None
            }
        }
    }

    /// The number of the program of our filter; none if there is no filter.
    fn filter(&mut self, (part, index): Place) -> Result<Option<u32>, String> {
        let socket = match &mut self.filters {
            Some(socket) => socket,
            none => none.insert(Netlink::open().map_err(text)?),
        };
        let egress = part.side() == TcAttachType::Egress;
        socket.filter(index, egress, part.priority(), part.handle().into()).map_err(text)
    }

    /// Where it is now.
    pub(super) fn present(&self) -> &BTreeMap<Place, Attached> {
        &self.present
    }

    /// Whether the program that forwards is at an interface, be it a former life's.
    pub(super) fn forwards_at(&self, index: u32) -> bool {
        let place = (Part::Forward, index);
        self.present.contains_key(&place) || pins(&self.folder).iter().any(|pin| pin.place == place)
    }

    /// Has the program on these interfaces and no others. Goes on after a failure; one that failed is tried again with the next
    /// call. What is there of the parts that are held stays as it is.
    pub(super) fn sync(
        &mut self,
        ebpf: &mut Ebpf,
        wanted: &BTreeMap<Place, Wanted>,
        held: &[Part],
    ) -> Vec<KernelError> {
        let mut failures = Vec::new();
        self.present.retain(|place, attached| {
            wanted.get(place).is_some_and(|it| it.name == attached.name && it.way == attached.wanted)
        });
        self.lost.retain(|place| wanted.contains_key(place));
        for (&place, wanted) in wanted {
            if let Some(why) = self.missing(place) {
                let interface = &wanted.name;
                tracing::warn!(
                    interface,
                    program = place.0.program(),
                    why,
                    "no longer where it was attached; attaching again"
                );
                self.present.remove(&place);
                self.lost.insert(place);
            }
            if let Some(present) = self.present.get_mut(&place) {
                present.purpose.clone_from(&wanted.purpose);
                continue;
            }
            if held.contains(&place.0) && !self.lost.contains(&place) {
                continue;
            }
            match self.attach(ebpf, place, wanted) {
                Ok(attached) => {
                    let (interface, how, why) = (&attached.name, attached.how.name(), &attached.why);
                    let purpose = &attached.purpose;
                    tracing::info!(interface, how, why, purpose, "forwarding in the kernel");
                    self.attached_again += u64::from(self.lost.remove(&place));
                    self.present.insert(place, attached);
                }
                Err(error) => failures.push(error),
            }
        }
        // The new ones first, then what is no longer wanted: an interface that changes its way is never without.
        failures.extend(self.sweep(wanted).err());
        failures
    }

    /// Removes the pins, and with them the programs, of interfaces that are not to have them, in this way. What a former life has
    /// on an interface where attaching failed stays: it forwards.
    fn sweep(&self, wanted: &BTreeMap<Place, Wanted>) -> Result<(), KernelError> {
        for pin in pins(&self.folder) {
            let over = match self.present.get(&pin.place) {
                Some(present) => present.how != pin.how,
                None => !wanted.contains_key(&pin.place),
            };
            if over {
                pin.detach()?;
            }
        }
        Ok(())
    }

    fn attach(&self, ebpf: &mut Ebpf, place: Place, wanted: &Wanted) -> Result<Attached, KernelError> {
        let (part, index) = place;
        let attached = |how, why: String, program| Attached {
            name: wanted.name.clone(),
            how,
            why,
            purpose: wanted.purpose.clone(),
            wanted: wanted.way,
            program,
        };
        let failed = |reason: String| KernelError::Attach { interface: wanted.name.clone(), reason };
        if wanted.way == Attach::Xdp && part == Part::Forward {
            let number = self.attach_xdp(ebpf, index).map_err(|reason| {
                failed(format!("{reason}; with `attach = \"tc\"` under [kernel] it does without the driver"))
            })?;
            return Ok(attached(How::Xdp, "the configuration asks for XDP".to_owned(), number));
        }
        let program = program::<SchedClassifier>(ebpf, part.program())?;
        if program.fd().is_err() {
            program.load().map_err(|error| failed(text(error)))?;
        }
        let number = program.info().map_err(|error| failed(text(error)))?.id();
        if self.tcx && wanted.way != Attach::Clsact {
            self.attach_tcx(program, place, &wanted.name).map_err(failed)?;
            return Ok(attached(How::Tcx, "the kernel has tcx links (6.6 and newer)".to_owned(), number));
        }
        self.attach_clsact(program, place, &wanted.name).map_err(failed)?;
        let why = match wanted.way {
            Attach::Clsact => "the configuration asks for it",
            _ => "the kernel has no tcx links (those come with 6.6)",
        };
        Ok(attached(How::Clsact, why.to_owned(), number))
    }

    /// Where the pin of a part is.
    fn path(&self, place: Place, how: How) -> PathBuf {
        pin_path(&self.folder, place, how)
    }

    fn attach_tcx(&self, program: &mut SchedClassifier, place: Place, name: &str) -> Result<(), String> {
        let _order = TCX_ORDER.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.path(place, How::Tcx);
        if path.exists() {
            match replace_tcx(program, &path) {
                Ok(()) => return Ok(()),
                // Its interface has gone meanwhile: a link without one cannot be used any more.
                Err(error) => tracing::debug!(interface = name, error, "a pinned link is of no use"),
            }
            fs::remove_file(&path).map_err(|error| format!("removing {}: {error}", path.display()))?;
        }
        let second = self.second(place)?;
        let order = match &second {
            Some(second) => LinkOrder::before_link(second).map_err(text)?,
            None => LinkOrder::last(),
        };
        let options = TcAttachOptions::TcxOrder(order);
        let id = program.attach_with_options(name, place.0.side(), options).map_err(text)?;
        let link = FdLink::try_from(program.take_link(id).map_err(text)?).map_err(text)?;
        drop(link.pin(&path).map_err(text)?);
        Ok(())
    }

    /// The link of what is to be asked after the program at this place. One that a former life has left and that has lost its interface is asked
    /// nothing any more, and nothing can be put before it.
    fn second(&self, (part, index): Place) -> Result<Option<SchedClassifierLink>, String> {
        if part != Part::Forward {
            return Ok(None);
        }
        let path = pin_path(&self.chance, (Part::Chance, index), How::Tcx);
        let is_there = match bpf::link_state(&path) {
            Ok(state) => state.interface == index,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(text(error)),
        };
        if !is_there {
            return Ok(None);
        }
        let link = FdLink::from(PinnedLink::from_pin(&path).map_err(text)?);
        link.try_into().map(Some).map_err(text)
    }

    fn attach_clsact(&self, program: &mut SchedClassifier, place: Place, name: &str) -> Result<(), String> {
        let side = place.0.side();
        match tc::qdisc_add_clsact(name) {
            Ok(()) | Err(tc::TcError::AlreadyAttached) => {}
            Err(tc::TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => {}
            Err(error) => return Err(text(error)),
        }
        let there = SchedClassifierLink::attached(name, side, place.0.priority(), place.0.handle(), None)
            .map_err(text)?;
        // Replaced if it is there from a former life, else made.
        let id = match program.attach_to_link(there) {
            Ok(id) => id,
            Err(_) => {
                let options =
                    NlOptions { priority: place.0.priority(), handle: place.0.handle(), classid: None };
                let options = TcAttachOptions::Netlink(options);
                program.attach_with_options(name, side, options).map_err(text)?
            }
        };
        // Dropping it would remove the filter; it is to stay until it is detached on purpose.
        std::mem::forget(program.take_link(id).map_err(text)?);
        let path = self.path(place, How::Clsact);
        if path.exists() {
            fs::remove_file(&path).map_err(text)?;
        }
        let fd = program.fd().map_err(text)?;
        bpf::pin(std::os::fd::AsFd::as_fd(fd), &path).map_err(text)
    }

    /// Answers the number of the program.
    fn attach_xdp(&self, ebpf: &mut Ebpf, index: u32) -> Result<u32, String> {
        let program = program::<Xdp>(ebpf, XDP_PROGRAM).map_err(text)?;
        if program.fd().is_err() {
            program.load().map_err(text)?;
        }
        let number = program.info().map_err(text)?.id();
        let path = self.path((Part::Forward, index), How::Xdp);
        if path.exists() {
            let replaced = PinnedLink::from_pin(&path).map_err(text).and_then(|old| {
                let id = program.attach_to_link(FdLink::from(old).try_into().map_err(text)?).map_err(text)?;
                drop(program.take_link(id).map_err(text)?);
                Ok(())
            });
            if replaced.is_ok() {
                return Ok(number);
            }
            fs::remove_file(&path).map_err(text)?;
        }
        let attached = program.attach_to_if_index(index, XdpMode::Driver);
        let id =
            attached.map_err(|error| if has_no_hook(&error) { NO_HOOK.to_owned() } else { text(error) })?;
        let link = FdLink::try_from(program.take_link(id).map_err(text)?).map_err(text)?;
        drop(link.pin(&path).map_err(text)?);
        Ok(number)
    }
}

/// What is said where the driver has no place for a program: of what the kernel itself answers nobody knows what to do.
const NO_HOOK: &str = "its driver has no hook for XDP";

/// Whether the kernel has answered that (`dev_xdp_attach`, net/core/dev.c).
fn has_no_hook(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source())
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|answer| answer.raw_os_error() == Some(libc::EOPNOTSUPP))
}

/// Puts `program` in the place of the one that a pinned link has.
fn replace_tcx(program: &mut SchedClassifier, path: &Path) -> Result<(), String> {
    let old = PinnedLink::from_pin(path).map_err(text)?;
    let id = program.attach_to_link(FdLink::from(old).try_into().map_err(text)?).map_err(text)?;
    // The pin keeps it.
    drop(program.take_link(id).map_err(text)?);
    Ok(())
}

/// A program at an interface, known by its pin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pin {
    /// The pin.
    pub(super) path: PathBuf,
    place: Place,
    how: How,
}

/// What is pinned in a node's folder for interfaces.
pub(super) fn pins(folder: &Path) -> Vec<Pin> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| Pin::of(entry.path())).collect()
}

impl Pin {
    fn of(path: PathBuf) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let found = Part::ALL.into_iter().find_map(|part| {
            let rest = name.strip_prefix(part.prefix())?;
            How::ALL.into_iter().find_map(|how| {
                let index = rest.strip_prefix(how.prefix())?.parse().ok()?;
                Some(((part, index), how))
            })
        });
        let (place, how) = found?;
        Some(Self { path, place, how })
    }

    /// Takes the program off its interface.
    pub(super) fn detach(&self) -> Result<(), KernelError> {
        let Self { path, place: (part, index), how } = self;
        if *how == How::Clsact
            && let Some(name) = interface_name(*index)
        {
            let link =
                SchedClassifierLink::attached(&name, part.side(), part.priority(), part.handle(), None);
            // A filter that is gone already needs no removing; dropping the link removes it.
            drop(link);
        }
        match fs::remove_file(path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(KernelError::Folder { path: path.clone(), source })
            }
            _ => {
                tracing::info!(interface = index, how = how.name(), "no longer forwarding in the kernel");
                Ok(())
            }
        }
    }
}

fn pin_path(folder: &Path, (part, index): Place, how: How) -> PathBuf {
    folder.join(format!("{}{}{index}", part.prefix(), how.prefix()))
}

fn interface_name(index: u32) -> Option<String> {
    nix::net::if_::if_indextoname(index).ok()?.into_string().ok()
}

/// A program of the object.
pub(super) fn program<'a, T>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut T, KernelError>
where
    &'a mut T: TryFrom<&'a mut Program, Error = aya::programs::ProgramError>,
{
    let missing = || KernelError::Load { reason: format!("the object has no program {name}") };
    let program = ebpf.program_mut(name).ok_or_else(missing)?;
    program.try_into().map_err(|error| KernelError::Load { reason: text(error) })
}

/// An error with its causes.
pub(super) fn text(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_without_a_hook_is_known_by_the_kernels_answer() {
        let refused = |errno: i32| {
            let io_error = io::Error::from_raw_os_error(errno);
            let call = "bpf_link_create";
            aya::programs::ProgramError::SyscallError(aya::sys::SyscallError { call, io_error })
        };
        assert!(has_no_hook(&refused(libc::EOPNOTSUPP)));
        assert!(!has_no_hook(&refused(libc::EBUSY)), "somebody else's program is there");
        assert!(text(refused(libc::EBUSY)).contains("bpf_link_create"));
    }

    #[test]
    fn a_pins_name_says_what_it_is() {
        let attachments = Attachments::new(Path::new("/pins"), Path::new("/pins_chance"), true);
        for part in Part::ALL {
            for how in How::ALL {
                let path = attachments.path((part, 12), how);
                assert_eq!(Pin::of(path.clone()), Some(Pin { path, place: (part, 12), how }));
            }
        }
        for other in ["/pins/tcx_", "/pins/check_out_12", "/pins/check_out_tcx_a", "/pins/indexes"] {
            assert_eq!(Pin::of(other.into()), None, "{other}");
        }
    }
}
