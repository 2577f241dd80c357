//! Shells that are broken on purpose: what proves that the checkers can object.

/// What the shells of both nodes do wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sabotage {
    /// Nothing.
    #[default]
    None,
    /// Addresses are never removed.
    KeepsAddresses,
    /// The addresses are removed when they are offered, before the peer has taken them.
    DropsEarly,
    /// No gratuitous ARP or neighbour advertisement is sent.
    NeverAnnounces,
    /// There is no warden.
    NoWarden,
    /// Every second advertisement is swallowed.
    SkipsAdverts,
    /// Received advertisements are not read.
    Deaf,
    /// Timeout is called again and again.
    Hasty,
    /// The core is told that `lbd` is well, whatever it says.
    HidesHealth,
    /// Addresses of a reload are not added.
    IgnoresReload,
    /// The kernel is told of leases that are too long.
    LeasesTooLong,
    /// Role changes are reported with the wrong former role.
    MixesUpEvents,
}
