//! Settings of interfaces in `/proc/sys/net`: what the program needs, and what the doctor looks at.

use std::fs;
use std::path::PathBuf;

/// Where settings are.
const ROOT: &str = "/proc/sys/net";

/// A setting; none if it cannot be read.
pub(super) fn read(path: &str) -> Option<String> {
    fs::read_to_string(PathBuf::from(ROOT).join(path)).ok().map(|text| text.trim().to_owned())
}

/// Has the kernel forward packets of these families that arrive at an interface: only then it tells the program the way to clients,
/// which `nat` asks for. Answers what could not be set. An IPv6 interface that forwards hears no router advertisements, unless it is told to all the same: it goes on
/// hearing those that it heard before.
pub(super) fn allow_forwarding(interface: &str, ipv4: bool, ipv6: bool) -> Result<(), String> {
    if ipv4 {
        set(&format!("ipv4/conf/{interface}/forwarding"), "1")?;
    }
    if !ipv6 || read(&format!("ipv6/conf/{interface}/forwarding")).is_none_or(|value| value == "1") {
        return Ok(());
    }
    let advertisements = format!("ipv6/conf/{interface}/accept_ra");
    if read(&advertisements).is_some_and(|value| value == "1") {
        set(&advertisements, "2")?;
    }
    set(&format!("ipv6/conf/{interface}/forwarding"), "1")
}

/// Has the stack take packets from virtual IPs at the loopback interface: answers to health checks, which the program hands in
/// there. Nothing else from outside comes in by this interface, and what is sent on it is not looked at again.
pub(super) fn accept_answers() -> Result<(), String> {
    set("ipv4/conf/lo/accept_local", "1")
}

fn set(path: &str, value: &str) -> Result<(), String> {
    if read(path).is_some_and(|known| known == value) {
        return Ok(());
    }
    let whole = PathBuf::from(ROOT).join(path);
    fs::write(&whole, value).map_err(|error| {
        format!(
            "cannot write {value} to {}: {error}; answers of targets find no way without it",
            whole.display()
        )
    })?;
    tracing::info!(setting = path, value, "set, so that answers of targets find their way");
    Ok(())
}
