//! Putting another version of the configuration file in force.

use std::sync::Arc;

use sd_notify::NotifyState;
use tokio::sync::oneshot;

use super::{Control, ControlError, Inputs, notify, read};
use crate::api::server::{listen_tcp, serve_tcp};
use crate::api::{ReloadRequest, Settings};
use crate::command::{Command, CommandError, ReloadOutcome};

impl Control {
    /// Reloads; the former configuration stays in force unless everything about the new one is right.
    pub(super) async fn reload(&mut self, request: Option<ReloadRequest>) {
        notify_reloading();
        let result = self.try_reload().await;
        // Success is an event of the loop's.
        if let Err(error) = &result {
            tracing::error!("the former configuration stays in force: {error}");
        }
        notify(&[NotifyState::Ready]);
        if let Some(request) = request {
            // Whoever asked may have gone.
            request.send(result).ok();
        }
    }

    async fn try_reload(&mut self) -> Result<ReloadOutcome, CommandError> {
        let options = self.options.clone();
        // Reading files can take its time; requests are answered meanwhile.
        let Inputs { config, key, token } = match tokio::task::spawn_blocking(move || read(&options)).await {
            Ok(inputs) => inputs.map_err(failed)?,
            Err(error) => return Err(CommandError::ReloadFailed { reason: error.to_string() }),
        };
        let address = config.api.vrrpd;
        let listener = if address == self.tcp.0 { None } else { Some(listen_tcp(address).map_err(failed)?) };

        // The hooks of a new instance must be known before its first change of role.
        self.api.hooks.configure(&config);
        let outcome = match self.ask_the_loop(&config, key).await {
            Ok(outcome) => outcome,
            Err(error) => {
                self.api.hooks.configure(&self.config);
                return Err(error);
            }
        };
        if let Some(listener) = listener {
            match serve_tcp(Arc::clone(&self.api), listener) {
                Ok(task) => {
                    let (_, former) = std::mem::replace(&mut self.tcp, (address, task));
                    former.abort();
                }
                Err(error) => tracing::error!("the API does not listen on {address}: {error}"),
            }
        }
        self.api.settings.store(Arc::new(Settings::new(&config, token)));
        self.config = config;
        Ok(outcome)
    }

    async fn ask_the_loop(
        &mut self,
        config: &common::config::Config,
        key: Option<common::key::PairKey>,
    ) -> Result<ReloadOutcome, CommandError> {
        const WAIT: std::time::Duration = std::time::Duration::from_secs(4);
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Reload { config: Box::new(config.clone()), key, reply })?;
        match tokio::time::timeout(WAIT, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(CommandError::Stopping),
            Err(_) => Err(CommandError::TimedOut(WAIT)),
        }
    }
}

fn failed(error: impl Into<ControlError>) -> CommandError {
    CommandError::ReloadFailed { reason: error.into().to_string() }
}

fn notify_reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!("cannot read the monotonic clock: {error}"),
    }
}
