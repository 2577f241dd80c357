//! Everything that can be wrong with a configuration file, each with its one message.
//!
//! One variant is one message template, so that a test can show that every message is covered by a case.

macro_rules! problems {
    ($($(#[doc = $doc:literal])* $name:ident { $($field:ident),* } => $message:literal,)*) => {
        /// A mistake in the file; the fields are already fit for display (quoted, escaped, shortened).
        #[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
        pub(crate) enum Problem {
            $($(#[doc = $doc])* #[error($message)] $name { $($field: String),* },)*
        }

        impl Problem {
            /// The variant's name.
            pub(crate) const fn code(&self) -> &'static str {
                match self { $(Self::$name { .. } => stringify!($name),)* }
            }
        }

        /// The codes of every diagnostic there is, one per message template; see [`super::Diagnostic::code`].
        pub const DIAGNOSTIC_CODES: &[&str] = &[$(stringify!($name)),*];
    };
}

problems! {
    // Form: what one value says about itself.

    /// The TOML itself cannot be read.
    Syntax { message } => "this is not valid TOML: {message}",
    /// A file that asks for nothing, such as one that is just being written: serving nothing instead of what was served is
    /// never what was meant by that.
    NothingAsked {} => "the file has neither a [[vrrp]] nor a [[service]]: there is nothing to do",
    /// A key that no table of this kind has.
    UnknownKey { key } => "{key}: unknown key",
    /// A required key that is not there.
    MissingKey { key } => "{key}: missing, but required",
    /// A value of another TOML type.
    WrongType { key, expected, found } => "{key}: expected {expected}, found {found}",
    /// A feature that is designed but not built.
    NotAvailable { key } => "{key}: not available yet",
    /// A number, size or duration outside its bounds.
    OutOfRange { key, value, range } => "{key}: {value} is out of range, it must be {range}",
    /// A word that is not one of the choices.
    UnknownWord { key, value, expected } => "{key}: unknown value {value}, expected {expected}",
    /// A duration without a unit.
    NoUnit { key, value } => "{key}: a duration needs a unit, add one: \"{value}s\" or \"{value}ms\"",
    /// A string that is no duration.
    BadDuration { key, value, reason } => "{key}: {value} is no duration: {reason}",
    /// A string that is no size.
    BadSize { key, value } => "{key}: {value} is no size, write a number with B, KiB, MiB or GiB, such as \"32KiB\"",
    /// A string that is no IP address.
    BadAddress { key, value } => "{key}: {value} is no IP address, write one without prefix length and port",
    /// A string that is no IP address with a port.
    BadSocketAddress { key, value } => "{key}: {value} is no IP address with a port, such as \"192.0.2.1:80\" or \"[2001:db8::1]:80\"",
    /// Port 0.
    PortZero { key } => "{key}: port 0 cannot be used, write one between 1 and 65535",
    /// An address that is fit for something else only.
    UnusableAddress { key, value, why } => "{key}: {value} cannot be used here: {why}",
    /// A name with characters that addresses of the API and references cannot hold.
    BadName { key, value } => "{key}: {value} is no usable name: 1 to 64 letters, digits, '.', '_' and '-', the first a letter or digit",
    /// A target's id with unusable characters.
    BadTargetId { key, value } => "{key}: {value} is no usable id: 1 to 64 visible ASCII characters without '/', '?', '#', '%' and quotes",
    /// Text with control characters or too long.
    BadText { key, value } => "{key}: {value} must be 1 to 255 characters long, without control characters",
    /// An empty list or string where something must be.
    Empty { key } => "{key}: must not be empty",
    /// A name no network interface can have.
    BadInterface { key, value } => "{key}: {value} cannot be an interface's name: 1 to 15 visible characters without '/' and ':'",
    /// A listening address of no known form.
    BadListen { key, value } => "{key}: {value} is no listening address, write \"@INSTANCE:PORT\", \"192.0.2.1:PORT\" or \"[2001:db8::1]:PORT\"",
    /// A range of ports that ends before it begins.
    PortRangeReversed { key, first, last } => "{key}: the ports {first}-{last} end before they begin",
    /// A status list that cannot be read.
    BadStatuses { key, value } => "{key}: {value} is no list of HTTP statuses, write for example \"200-299\" or \"200,301-302\" (100 to 599)",
    /// A path that does not start with a slash, or with characters a request line cannot hold.
    BadPath { key, value } => "{key}: {value} is no path, it starts with '/' and has visible ASCII characters only",
    /// A value that cannot be sent as a header.
    BadHost { key, value } => "{key}: {value} cannot be sent as a Host header: 1 to 255 visible ASCII characters",
    /// A host and port that cannot be resolved.
    BadDnsName { key, value } => "{key}: {value} is no host name with a port, such as \"shop.internal:8080\"",
    /// A host name without a port.
    BadHostName { key, value } => "{key}: {value} is no host name, such as \"shop.internal\"",
    /// A server name, or a pattern for several.
    BadServerName { key, value } => "{key}: {value} is no server name, such as \"shop.example.com\" or \"*.example.com\"",
    /// An address of an HTTP server, without a path.
    BadUrl { key, value } => "{key}: {value} is no server's address, such as \"http://127.0.0.1:8500\", without a path",
    /// A collector's address that cannot be used.
    BadEndpoint { key, value } => "{key}: {value} is no collector's address, such as \"http://127.0.0.1:4318/v1/traces\"",
    /// What a datagram cannot hold.
    BadPayload { key, value } => "{key}: {value} is no payload: 1 to 1024 bytes, written as characters up to \\u00FF",
    /// A network that cannot be read.
    BadNetwork { key, value } => "{key}: {value} is no network, such as \"192.0.2.0/24\" or \"2001:db8::/32\", and no address",
    /// A network with an address inside it.
    NetworkHostBits { key, value, network } => "{key}: {value} has bits set behind the prefix, the network is \"{network}\"",
    /// A boolean that only makes sense as true.
    OnlyTrue { key } => "{key}: write true, or leave the key out",
    /// Not exactly one of the alternatives.
    OneOf { key, choices, found } => "{key}: give one of {choices}, not {found}",
    /// Something else than a method.
    BadMethod { key, value } => "{key}: {value} is no method, write it in capital letters, such as \"GET\"",
    /// A name that no field can have.
    BadFieldName { key, value } => "{key}: {value} is no usable name: 1 to 64 letters, digits and characters such as '-'",
    /// A value that no field can have.
    BadFieldValue { key, value } => "{key}: {value} cannot be the value of a header field: up to 1024 visible ASCII characters, with spaces only between them",
    /// Another number of `Host`s than one.
    HostOnce { key } => "{key}: a request has exactly one Host; give it another value with set",
    /// A field that the proxy itself writes.
    ReservedField { key, value } => "{key}: {value} is written by Tandem itself and cannot be changed",
    /// A field in which `auth` has targets told who a request is from.
    ToldField { key, value } => "{key}: in {value} targets are told who a request is from, see `auth`: with another value it would be somebody else's",
    /// An expression that does not compile.
    BadRegex { key, value, reason } => "{key}: {value} does not compile: {reason}",
    /// A path that is not in the form that is compared.
    PathForm { key, value, why } => "{key}: no request has the path {value}: {why}",
    /// A text that cannot be made an address of.
    BadTemplate { key, value, reason } => "{key}: {value} cannot be filled in: {reason}",
    /// A realm that cannot be written between quotes.
    BadRealm { key, value } => "{key}: {value} cannot be a realm: up to 255 visible ASCII characters and spaces, without '\"' and '\\\\'",
    /// A redirect to nowhere.
    BadLocation { key, value } => "{key}: {value} is nowhere to be sent to, it begins with \"https://\", \"http://\", \"{{scheme}}://\", \"{{path}}\" or one '/'",
    /// A pin that is none.
    BadPin { key, value } => "{key}: {value} is no pin, write \"sha256/\" and the SHA-256 of a public key in base64",
    /// Something else than a media type.
    BadMediaType { key, value } => "{key}: {value} is no media type, such as \"text/html\", or \"text/*\" for all of a kind",
    /// A file that cannot be used for what it is named for, as only a look into it tells.
    UnusableFile { key, path, why } => "{key}: {path}: {why}",
    /// A key that another choice makes meaningless.
    KeyWithout { key, needs } => "{key}: has no meaning without {needs}",

    // VIPs.

    /// A VIP without a prefix length.
    VipNoPrefix { key, value, example } => "{key}: {value} has no prefix length, write for example \"{example}\"",
    /// A VIP that is no address at all.
    BadVip { key, value } => "{key}: {value} is no address with a prefix length, such as \"192.0.2.10/24\" or \"2001:db8::10/64\"",
    /// A prefix length out of range.
    VipPrefix { key, value, range } => "{key}: {value} has an impossible prefix length, it must be {range}",
    /// An address that cannot be moved between hosts.
    UnusableVip { key, value, why } => "{key}: {value} cannot be a virtual IP: {why}",
    /// Twice in one instance.
    DuplicateVip { address } => "vrrp.vips: {address} is listed twice",
    /// In two instances.
    SharedVip { address, instance } => "vrrp.vips: {address} belongs to instance {instance} already",
    /// Also an address of a node, a target or the gateway.
    VipTaken { address, what } => "vrrp.vips: {address} is also {what}; a virtual IP must be nobody's own address",
    /// More than an advertisement should hold.
    TooManyVips { count, family, max } => "vrrp.vips: {count} {family} addresses, at most {max} of a family fit an instance",
    /// An instance that does nothing.
    NoVips { } => "vrrp.vips: neither virtual IPs nor hooks, so this instance would do nothing",

    // Names and references.

    /// The same name twice.
    DuplicateName { key, name } => "{key}: {name} is used twice",
    /// The same target id twice in a group.
    DuplicateTargetId { key, id } => "{key}: {id} is used twice in this list",
    /// The same entry twice in a list.
    DuplicateEntry { key, value } => "{key}: {value} is listed twice",
    /// Two limits, and not one for all clients and one for each.
    RateTwice { } => "service.rate: of two limits one is for all clients (key = \"service\") and the other for each (key = \"source_ip\" or \"header\")",
    /// A node that is not declared.
    UnknownNode { key, name } => "{key}: there is no [[node]] named {name}",
    /// A per-node table that leaves a node out.
    NodeLeftOut { key, node } => "{key}: node {node} is left out",
    /// An instance that is not declared.
    UnknownInstance { name } => "service.listen: there is no [[vrrp]] named {name}",
    /// A target group that is not declared.
    UnknownGroup { key, name } => "{key}: there is no [[target_group]] named {name}",

    // Nodes and the key.

    /// Not two nodes although there are instances.
    NodesForVrrp { count } => "[[vrrp]] needs exactly two [[node]] tables, found {count}",
    /// More than two nodes.
    NodeCount { count } => "a pair has exactly two [[node]] tables (one or none without [[vrrp]]), found {count}",
    /// Only one node has a peer address.
    PeerAddressMissing { } => "node.peer_address: missing here, but the other node has one",
    /// Both nodes have the same peer address.
    PeerAddressEqual { address } => "node.peer_address: {address} is the other node's address too",
    /// One IPv4, one IPv6.
    PeerAddressFamily { address } => "node.peer_address: {address} and the other node's address are not of the same family",
    /// Signing without a key.
    AuthWithoutKey { auth } => "vrrp.auth: \"{auth}\" needs pair.key_file, write a key with `vrrpd keygen --out FILE`",

    // Instances.

    /// Too many instances.
    TooManyInstances { count, max } => "{count} [[vrrp]] instances, at most {max} are supported",
    /// The same virtual router twice on a link.
    DuplicateVrid { vrid, interface, node, family } => "vrrp.vrid: {vrid} is used twice for {family} on interface {interface} of node {node}",
    /// Equal priorities.
    EqualPriorities { priority } => "vrrp.priority: both nodes have {priority}, one must be higher",
    /// Two owners.
    TwoOwners { } => "vrrp.priority: both nodes have 255, but only one can own the addresses",
    /// A priority that nothing is lower than.
    NoRoomBelow { } => "vrrp.priority: 1 leaves no lower one for a node in bad health, write 2 or more, or switch off what `track` follows",
    /// An owner that shall not preempt.
    OwnerNoPreempt { } => "vrrp.preempt: false cannot be kept with priority 255, the owner of the addresses always takes over",
    /// Version 2 has no IPv6.
    Version2Ipv6 { address } => "vrrp.vips: {address}: VRRP version 2 has no IPv6",
    /// Version 2 has no trailer.
    Version2Auth { auth } => "vrrp.auth: VRRP version 2 cannot be signed, write auth = \"none\" instead of \"{auth}\"",
    /// Version 2 has no other checksum.
    Version2Checksum { } => "vrrp.checksum: VRRP version 2 knows no pseudo-header checksum",
    /// Version 2 counts seconds.
    Version2Interval { value } => "vrrp.advert_interval: {value} is not a whole number of seconds of 1s or more, as VRRP version 2 needs",
    /// Version 3 counts centiseconds.
    IntervalStep { value } => "vrrp.advert_interval: {value} is no multiple of 10ms, the step VRRP counts in",
    /// Unicast without an address to send to.
    UnicastAddress { node, family } => "vrrp.transport: \"unicast\" needs an {family} address of node {node}: give it in `address`, or as its peer_address",
    /// Two addresses of a family for one node.
    AddressFamilyTwice { node, family } => "vrrp.address.{node}: more than one {family} address",
    /// Both nodes have the same address.
    AddressEqual { address } => "vrrp.address: {address} is given for both nodes",
    /// A gateway no VIP can talk with.
    GatewayFamily { address, family } => "vrrp.track.gateway: {address} is {family}, but no virtual IP of this instance is",

    // Services, groups, API.

    /// A datagram listener of a stream service.
    UdpListen { value, mode } => "service.listen: {value}: \"/udp\" is for nat, dsr and udp, not for mode \"{mode}\"",
    /// Several ports of a service that listens itself.
    PortRange { value, mode } => "service.listen: {value}: several ports at once are for nat and dsr, not for mode \"{mode}\"",
    /// Packets that the kernel cannot forward.
    KernelListen { value, why } => "service.listen: {value} cannot be forwarded in the kernel: {why}",
    /// A key of proxies with a service that the kernel forwards.
    NotInKernel { key, mode, why } => "{key}: cannot be used with mode \"{mode}\": {why}",
    /// More than the program's tables hold.
    TooManyInKernel { what, max } => "service.listen: the services of mode \"nat\" and \"dsr\" have more than {max} {what}",
    /// More ranges than the program looks through.
    TooManyRanges { address, max } => "service.listen: more than {max} port ranges of {address}",
    /// More networks than the program's table has room for.
    TooManyNetworks { count, max } => "service.access: with this list the services of mode \"nat\" and \"dsr\" have {count} entries in the kernel's table of networks, at most {max} fit; each network takes one for each protocol, address family and instance of its service",
    /// One address as two targets that packets reach with the same addresses and ports.
    TargetTwice { address, listen, other } => "target_group.targets.address: {address} has no port, and what comes to {listen} may go on to the same port as that of {other}: connections of both could have the same addresses and ports there; write its port here, too",
    /// A virtual IP without a target of its family.
    NoTargetOfFamily { address, family, group } => "service.listen: {address} is {family}, but no target of group {group} is, and mode \"nat\" does not translate between the two",
    /// A target without a virtual IP of its family.
    NoListenOfFamily { address, family } => "target_group.targets.address: {address} is {family}, but no address that a service of mode \"nat\" forwards from here is, and it does not translate between the two",
    /// A target on another port, where ports cannot be rewritten.
    DsrPort { address, listen } => "target_group.targets.address: {address} has another port than {listen}, and mode \"dsr\" leaves ports as they are: write the same port, or none",
    /// A range that is mapped to one port, of which answers do not say where they belong.
    PreserveRange { listen } => "service.preserve_client_ip: {listen} has several ports, but a target one of its own: its answers would not say which port the client asked for; leave the targets' ports out",
    /// A target behind more addresses than are tried.
    PreserveTooMany { address, max } => "service.preserve_client_ip: {address} would be reached with its clients' addresses through more than {max} addresses and ports, among which its answers have to be looked for",
    /// A target without a port, which something connects to.
    TargetWithoutPort { address, who } => "target_group.targets.address: {address} has no port, which {who} needs",
    /// An address that is no VIP.
    ListenNoVip { address } => "service.listen: {address} is no virtual IP of any [[vrrp]]",
    /// An address that needs an interface.
    ListenLinkLocal { address } => "service.listen: {address} is a link-local address, which cannot be listened on",
    /// An instance without an address to listen on.
    InstanceNoVip { name } => "service.listen: instance {name} has no virtual IP to listen on",
    /// More sockets than a daemon should open.
    TooManyListeners { max } => "service.listen: this makes more than {max} addresses to listen on, all services together",
    /// The same address and port twice.
    DuplicateListen { address } => "service.listen: {address} is listened on twice",
    /// The address of one of the APIs.
    ListenOnApi { address, daemon } => "service.listen: {address} is the address of {daemon}'s API, see [api]",
    /// The same port of an address and of all addresses.
    ListenOverlap { address, other } => "service.listen: {address} overlaps with {other}, which is listened on too",
    /// The same with one of the APIs.
    ListenOverlapsApi { address, other, daemon } => "service.listen: {address} overlaps with {other}, the address of {daemon}'s API, see [api]",
    /// A health check slower than its own interval.
    HealthTimeout { timeout, interval } => "target_group.health.timeout: {timeout} must be less than the interval of {interval}",
    /// A redirect to itself.
    RedirectLoop { example, to } => "service.rule.redirect: {example} is sent to {to}, which meets the same rule: clients would go round in circles",
    /// A rule behind one that takes all of its requests.
    RuleNeverMet { } => "service.rule: no request comes this far, an earlier rule takes all of them",
    /// A weighted list without any weight.
    NoWeight { key } => "{key}: all weights are 0, so nothing would be served",
    /// A group with neither targets nor discovery.
    NoTargets { } => "target_group.targets: a group needs at least one target",
    /// The same address and port twice in a group.
    DuplicateTarget { key, address } => "{key}: {address} is twice in this list",
    /// A group that would never be in normal use.
    OnlyBackups { } => "target_group.targets: every target is a backup, so there is none to back up",
    /// A header that cannot be put before datagrams.
    ProxyV1Datagrams { } => "target_group.send_proxy: version 1 of the PROXY protocol is for connections only",
    /// A cookie that would be written by one group and read by another.
    SharedCookie { name } => "target_group.sticky.name: the cookie {name} is another group's of the same service, too; each needs a name of its own",
    /// A directory of no known form.
    BadAcmeDirectory { key, value } => "{key}: {value} is no address of an ACME directory, such as \"https://acme.example/directory\"",
    /// Somebody who cannot be written to.
    BadContact { key, value } => "{key}: {value} is no address of electronic mail, such as \"admin@example.org\"",
    /// Terms that nobody has accepted.
    AcmeTerms { } => "acme.accept_terms: the authority's terms of service have to be accepted, write accept_terms = true",
    /// A name that no authority would sign.
    BadAcmeName { key, value } => "{key}: {value} is no name that a certificate can be ordered for, such as \"www.example.org\"",
    /// A name that another challenge would be needed for.
    AcmeWildcard { key, value } => "{key}: {value} cannot be ordered: for a wildcard the authority wants its challenge met in DNS, which is not available; write the names one by one, or name a file in `certificates`",
    /// More names than authorities put into one certificate.
    TooManyAcmeNames { count, max } => "service.tls.acme: {count} names for one certificate, at most {max} are possible",
    /// Nobody who would meet the challenge.
    AcmeNoHttp { address, port } => "service.tls.acme: no service of mode \"http\" without TLS listens at {address} on port {port}, where the authority looks whether the names are this pair's: add one (it needs no more than a rule that redirects to https), or say in acme.http_port on which port its requests arrive",
    /// More certificates than are told to the other node.
    TooManyOrdered { max } => "service.tls.acme: more than {max} certificates to order, all services together",
    /// Both daemons on one address.
    ApiSameAddress { address } => "api.lbd: {address} is vrrpd's address too",
    /// One of them on every address.
    ApiOverlap { address, other } => "api.lbd: {address} overlaps with vrrpd's address, which is {other}",
}
