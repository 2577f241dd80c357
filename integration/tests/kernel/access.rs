//! Access lists of the kernel that change while new flows arrive: each is treated as the list before has it, or as the one after.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use integration::lab::clock::wait_until;
use integration::lab::{Lab, Result};

use crate::kernel_support::{LIMIT, reload_text, service, start, vips};

/// Networks of nobody's: so many that writing them takes as long as many flows.
const OTHERS: usize = 3000;

/// A service for datagrams with this list.
fn text(lab: &Lab, access: &str) -> String {
    service(lab, "echo", &format!("mode = \"nat\"\n{access}"), &["7/udp"], 7, "")
}

fn others() -> String {
    let networks: Vec<String> =
        (0..OTHERS).map(|number| format!("\"172.{}.{}.0/24\"", 16 + number / 250, number % 250)).collect();
    networks.join(", ")
}

fn denied(lab: &Lab) -> Result<u64> {
    lab.a().counted("tandem_lbd_kernel_drops_total", "reason=\"denied\"")
}

#[test]
fn a_list_changes_for_everybody_at_once() -> Result<()> {
    let lab = Lab::builder("kernel-access").targets(1).build()?;
    let client = lab.client().v4();
    // The client is let in by both, by its own entry and by nobody's.
    let allowing = text(&lab, &format!("access = {{ allow = [{}, \"{client}\"] }}", others()));
    let denying = text(&lab, &format!("access = {{ deny = [{}] }}", others()));
    start(&lab, &denying)?;
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| -> Result<()> {
        scope.spawn(|| {
            lab.client().namespace().inside(|| {
                while !stop.load(Ordering::Relaxed) {
                    // Another port each time, so that each is a new flow.
                    let socket = UdpSocket::bind((client, 0)).unwrap();
                    if socket.send_to(b"?", SocketAddr::new(vips()[0], 7)).is_ok() {
                        sent.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        });
        let changed = || -> Result<()> {
            for _ in 0..4 {
                for text in [&allowing, &denying] {
                    let before = sent.load(Ordering::Relaxed);
                    reload_text(&lab, text)?;
                    // The list is written after the answer.
                    wait_until("new flows", LIMIT, || sent.load(Ordering::Relaxed) > before + 2000)?;
                }
            }
            Ok(())
        };
        let result = changed();
        stop.store(true, Ordering::Relaxed);
        result
    })?;
    assert_eq!(denied(&lab)?, 0, "of {} flows", sent.load(Ordering::Relaxed));
    // And one that keeps it out does.
    reload_text(&lab, &text(&lab, &format!("access = {{ deny = [\"{client}\"] }}")))?;
    wait_until("the client to be kept out", LIMIT, || {
        lab.client()
            .namespace()
            .inside(|| {
                let socket = UdpSocket::bind((client, 0)).unwrap();
                socket.send_to(b"?", SocketAddr::new(vips()[0], 7)).ok();
            })
            .is_ok()
            && denied(&lab).is_ok_and(|count| count > 0)
    })?;
    lab.finish()
}
