use super::*;

use std::fs;

/// A directory with settings as in `/proc/sys`, and a run directory.
struct Host {
    dir: PathBuf,
}

impl Host {
    fn new(test: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("vrrpd-sysctl-{}-{test}", std::process::id()));
        let host = Self { dir };
        for interface in ["all", "eth0"] {
            for name in ["arp_ignore", "arp_announce", "rp_filter"] {
                host.put(&format!("net/ipv4/conf/{interface}/{name}"), "0");
            }
        }
        fs::create_dir_all(host.run_dir()).unwrap();
        host
    }

    fn run_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    fn put(&self, key: &str, value: &str) {
        let path = self.dir.join(key);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{value}\n")).unwrap();
    }

    fn get(&self, key: &str) -> String {
        fs::read_to_string(self.dir.join(key)).unwrap().trim().to_owned()
    }

    fn open(&self) -> Sysctls {
        Sysctls::below(&self.dir, &self.run_dir()).unwrap()
    }

    fn saved(&self) -> Option<String> {
        fs::read_to_string(self.run_dir().join(FILE_NAME)).ok()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.dir).unwrap();
    }
}

const IGNORE: &str = "net/ipv4/conf/eth0/arp_ignore";
const ANNOUNCE: &str = "net/ipv4/conf/eth0/arp_announce";

#[test]
fn settings_are_made_and_put_back() {
    let host = Host::new("plain");
    host.put(ANNOUNCE, "2");
    let mut sysctls = host.open();
    sysctls.prepare_interface("eth0").unwrap();
    sysctls.prepare_interface("eth0").unwrap();
    assert_eq!((host.get(IGNORE), host.get(ANNOUNCE)), ("1".to_owned(), "2".to_owned()));
    // What was so before is none of ours.
    assert_eq!(host.saved().unwrap(), format!("{IGNORE} 0 1\n"));
    sysctls.restore().unwrap();
    assert_eq!((host.get(IGNORE), host.get(ANNOUNCE)), ("0".to_owned(), "2".to_owned()));
    assert_eq!(host.saved(), None);
}

#[test]
fn the_life_after_a_crash_puts_back_what_was_first() {
    let host = Host::new("crash");
    host.open().prepare_interface("eth0").unwrap();
    let mut second = host.open();
    second.prepare_interface("eth0").unwrap();
    second.restore().unwrap();
    assert_eq!((host.get(IGNORE), host.get(ANNOUNCE)), ("0".to_owned(), "0".to_owned()));
}

#[test]
fn what_someone_sets_meanwhile_stays() {
    let host = Host::new("changed");
    let mut sysctls = host.open();
    sysctls.prepare_interface("eth0").unwrap();
    host.put(ANNOUNCE, "1");
    sysctls.restore().unwrap();
    assert_eq!((host.get(IGNORE), host.get(ANNOUNCE)), ("0".to_owned(), "1".to_owned()));

    // And is what is put back, if it was there when the next life began.
    sysctls.prepare_interface("eth0").unwrap();
    host.put(IGNORE, "2");
    let mut next = host.open();
    next.prepare_interface("eth0").unwrap();
    assert_eq!(host.get(IGNORE), "1");
    next.restore().unwrap();
    assert_eq!(host.get(IGNORE), "2");
}

#[test]
fn an_interface_that_is_missing_is_prepared_when_it_appears() {
    let host = Host::new("missing");
    let mut sysctls = host.open();
    sysctls.prepare_interface("eth1").unwrap();
    assert_eq!(host.saved(), None);
    host.put("net/ipv4/conf/eth1/arp_ignore", "0");
    sysctls.prepare_interface("eth1").unwrap();
    assert_eq!(host.get("net/ipv4/conf/eth1/arp_ignore"), "1");
    fs::remove_dir_all(host.dir.join("net/ipv4/conf/eth1")).unwrap();
    sysctls.restore().unwrap();
    assert_eq!(host.saved(), None);
}

#[test]
fn a_setting_for_all_that_stands_in_the_way_is_named() {
    let host = Host::new("all");
    host.put("net/ipv4/conf/all/arp_ignore", "2");
    let error = host.open().prepare_interface("eth0").unwrap_err();
    assert!(error.to_string().contains("net.ipv4.conf.all.arp_ignore is 2"), "{error}");
    assert_eq!((host.get(IGNORE), host.saved()), ("0".to_owned(), None));
}

#[test]
fn a_macvlan_accepts_what_comes_back_another_way() {
    let host = Host::new("macvlan");
    for name in ["ipv4/conf/m0/arp_ignore", "ipv4/conf/m0/arp_announce", "ipv6/conf/m0/accept_ra"] {
        host.put(&format!("net/{name}"), "7");
    }
    host.put("net/ipv4/conf/m0/rp_filter", "1");
    let mut sysctls = host.open();
    sysctls.prepare_macvlan("m0").unwrap();
    assert_eq!(host.get("net/ipv4/conf/m0/rp_filter"), "0");
    host.put("net/ipv4/conf/all/rp_filter", "1");
    sysctls.prepare_macvlan("m0").unwrap();
    assert_eq!(host.get("net/ipv4/conf/m0/rp_filter"), "2");
    assert_eq!(host.get("net/ipv6/conf/m0/accept_ra"), "0");
    assert_eq!(host.get("net/ipv4/conf/m0/arp_ignore"), "1");
    assert_eq!(host.saved(), None);
}

#[test]
fn a_damaged_file_does_no_harm() {
    let host = Host::new("damaged");
    fs::write(host.run_dir().join(FILE_NAME), format!("nonsense\n{IGNORE} 0 1\n{IGNORE} 3 1 4\n\n")).unwrap();
    host.put(IGNORE, "1");
    host.open().restore().unwrap();
    assert_eq!((host.get(IGNORE), host.saved()), ("0".to_owned(), None));
}
