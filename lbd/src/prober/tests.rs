use common::config::Via;
use lbd_core::check::{Failure, Stage};

use super::*;

#[test]
fn no_more_checks_than_bounded_are_under_way() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let (counters, room) = (CheckCounters::default(), Semaphore::new(1));
        let first = permit(&counters, &room).await;
        assert!(first.is_some() && counters.delayed.get() == 0);
        let mut second = Box::pin(permit(&counters, &room));
        tokio::select! {
            biased;
            _permit = &mut second => panic!("there was no room"),
            () = std::future::ready(()) => {}
        }
        assert_eq!(counters.delayed.get(), 1);
        drop(first);
        assert!(second.await.is_some());
    });
}

#[test]
fn another_port_is_checked_if_asked_for() {
    let health = Health {
        check: HealthCheck::Tcp,
        interval: Duration::from_secs(1),
        unhealthy_interval: Duration::from_secs(1),
        timeout: Duration::from_millis(500),
        healthy_threshold: 1,
        unhealthy_threshold: 1,
        port: Some(81),
        via: Via::Target,
    };
    let group = common::config::parse(
        "[[service]]\nname = \"s\"\nmode = \"http\"\nlisten = [\"127.0.0.1:80\"]\nforward = \"g\"\n\
         [[target_group]]\nname = \"g\"\ntargets = [{ address = \"10.0.1.1:80\" }]\nprotocol = \"http2\"\nsend_proxy = \"v1\"\n",
        std::path::Path::new("pair.toml"),
    );
    let group = group.unwrap().target_groups.remove(0);
    let own = Health { port: None, ..health.clone() };
    assert_eq!(Manner::of(&group, &own), Manner { send_proxy: Some(ProxyVersion::V1), http2: true });
    assert_eq!(Manner::of(&group, &health), Manner::default(), "whoever listens there");
    let check = Check::new(&health, Manner::default()).unwrap();
    let probe = Probe::new(&check, "[2001:db8::1]:80".parse().unwrap(), None);
    assert_eq!(probe.own.address, "[2001:db8::1]:81".parse().unwrap());
}

#[test]
fn what_this_host_lacks_is_not_the_targets_fault() {
    let error = |code| std::io::Error::from_raw_os_error(code);
    for code in [libc::EMFILE, libc::ENFILE, libc::EADDRNOTAVAIL, libc::ENOBUFS] {
        assert_eq!(stream::failure(&error(code), Stage::Answer).reason(), Reason::Local, "{code}");
    }
    let reset = stream::failure(&error(libc::ECONNRESET), Stage::Answer);
    assert_eq!(reset, Failure::Broken("connection reset".to_owned()));
}
