//! One client connection of a `tcp` service.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use lbd_core::connect::ConnectPlan;
use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};

use super::relay::Relay;
use super::{reset_on_close, tune};
use crate::snapshot::Target;
use crate::worker::{Route, Worker};

/// Connects to a target and relays until the connection has ended.
pub(crate) async fn serve(worker: Rc<Worker>, route: Rc<Route>, client: TcpStream) {
    let open = Open { worker: &worker, route: &route };
    let counters = route.service.shared.counters.of(worker.index);
    let Some((target, upstream)) = connect(&worker, &route).await else {
        counters.no_target.add(1);
        reset_on_close(SockRef::from(&client));
        return;
    };
    let connected = Connected::new(&worker, &target);
    let idle_ms = u64::try_from(route.service.config.timeout.idle.as_millis()).unwrap_or(u64::MAX);
    let entry = worker.connections.enter(Arc::clone(&target), idle_ms);
    let end = Relay::new(client, upstream, &worker, counters, &entry.control).await;
    counters.ends[end.index()].add(1);
    drop(entry);
    drop(connected);
    drop(open);
}

/// Tries targets until one is connected, no further may be tried, or the tries are used up.
async fn connect(worker: &Worker, route: &Route) -> Option<(Arc<Target>, TcpStream)> {
    let group = &route.service.group;
    let service = route.service.shared.counters.of(worker.index);
    let mut plan = ConnectPlan::new(group.retry);
    loop {
        let choice = plan.next(&mut route.rotation.borrow_mut(), |index| group.targets[index].serving())?;
        if plan.tried() > 1 {
            service.retries.add(1);
        }
        if choice.unhealthy {
            service.unhealthy_tries.add(1);
        }
        let target = &group.targets[choice.target];
        let counters = target.counters.of(worker.index);
        let attempt = connect_once(target.key.address);
        match tokio::time::timeout(route.service.config.timeout.connect, attempt).await {
            Ok(Ok(stream)) => return Some((Arc::clone(target), stream)),
            Ok(Err(error)) => {
                counters.connect_errors.add(1);
                tracing::debug!(target = %target.key, %error, "connect failed");
            }
            Err(_) => {
                counters.connect_timeouts.add(1);
                tracing::debug!(target = %target.key, "connect timed out");
            }
        }
    }
}

async fn connect_once(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    tune(SockRef::from(&socket))?;
    socket.connect(address).await
}

/// Counts a client connection as open until dropped, also by a panic.
struct Open<'a> {
    worker: &'a Worker,
    route: &'a Route,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.route.service.shared.open.release();
        self.worker.shared().counters.open.subtract_one();
    }
}

/// Counts a connection to a target as open until dropped.
struct Connected<'a> {
    worker: &'a Worker,
    target: &'a Target,
}

impl<'a> Connected<'a> {
    fn new(worker: &'a Worker, target: &'a Target) -> Self {
        let counters = target.counters.of(worker.index);
        counters.connected.add(1);
        counters.open.add(1);
        Self { worker, target }
    }
}

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        self.target.counters.of(self.worker.index).open.subtract_one();
    }
}
