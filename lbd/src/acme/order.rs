//! One order: the account, the names, the authority's questions, and the certificate.

use std::time::Duration;

use common::config::Acme;
use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, ChallengeType, Error, Identifier, NewAccount, NewOrder,
    Order, OrderStatus, RetryPolicy,
};
use lbd_core::acme::{Challenge, FailureKind, Names};

use super::https::Https;
use super::store;

/// How long the authority may take to look at the names, and to sign.
const POLL: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(500))
    .backoff(1.5)
    .timeout(Duration::from_secs(90));

/// Why there is no certificate.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) kind: FailureKind,
    /// For people.
    pub(super) message: String,
    /// The authority does not know the account any more.
    pub(super) account_is_gone: bool,
}

impl Failed {
    pub(super) fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), account_is_gone: false }
    }

    /// What went wrong while something was done. An answer of the authority's is of the kind `refusal`, unless it says more.
    fn of(doing: &str, error: &Error, refusal: FailureKind) -> Self {
        let problem = match error {
            Error::Api(problem) => problem.r#type.as_deref().and_then(|it| it.strip_prefix(PROBLEM)),
            _ => None,
        };
        let kind = match (error, problem) {
            (_, Some("rateLimited")) => FailureKind::RateLimited,
            (_, Some("accountDoesNotExist")) => FailureKind::Account,
            (Error::Api(_), _) => refusal,
            (Error::Timeout(_), _) => FailureKind::Timeout,
            (Error::Crypto | Error::KeyRejected, _) => FailureKind::Local,
            _ => FailureKind::Directory,
        };
        let account_is_gone = problem == Some("accountDoesNotExist");
        Self { kind, message: format!("{doing}: {error}"), account_is_gone }
    }
}

/// What the types of the authority's answers begin with (RFC 8555, section 6.7).
const PROBLEM: &str = "urn:ietf:params:acme:error:";

/// The account: the one that is on the disk, or a new one, which is then there.
pub(super) async fn account(acme: &Acme, https: &Https) -> Result<Account, Failed> {
    let path = store::account_path(acme);
    let local = |error: std::io::Error| {
        Failed::new(FailureKind::Local, format!("cannot keep the account in {}: {error}", path.display()))
    };
    let builder = Account::builder_with_http(Box::new(https.clone()));
    let known = store::read(&path).map_err(local)?;
    match known.map(|bytes| serde_json::from_slice::<AccountCredentials>(&bytes)) {
        Some(Ok(credentials)) => {
            let restored = builder.from_credentials(credentials).await;
            return restored
                .map_err(|error| Failed::of("cannot read the directory", &error, FailureKind::Directory));
        }
        Some(Err(error)) => {
            tracing::warn!(file = %path.display(), "this is no account, a new one is made: {error}");
        }
        None => {}
    }
    let contact: Vec<&str> = acme.contact.iter().map(String::as_str).collect();
    // The configuration is only valid with the terms accepted.
    let wanted = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
    let made = builder.create(&wanted, acme.directory.clone(), None).await;
    let (account, credentials) =
        made.map_err(|error| Failed::of("cannot make an account", &error, FailureKind::Account))?;
    let bytes = serde_json::to_vec(&credentials)
        .map_err(|error| Failed::new(FailureKind::Local, format!("cannot write the account: {error}")))?;
    store::write(&path, &bytes).map_err(local)?;
    tracing::info!(directory = acme.directory, account = account.id(), "account made");
    Ok(account)
}

/// Orders a certificate for these names. `pend` has this pair answer the authority's questions from now on, and the authority is told to ask
/// after `settle`, so that the other node knows them, too. Answers the bundle.
pub(super) async fn place(
    account: &Account,
    names: &Names,
    pend: &impl Fn(Vec<Challenge>),
    settle: Duration,
) -> Result<String, Failed> {
    let identifiers: Vec<Identifier> = names.iter().map(|name| Identifier::Dns(name.to_owned())).collect();
    let order = account.new_order(&NewOrder::new(&identifiers)).await;
    let mut order =
        order.map_err(|error| Failed::of("the order was refused", &error, FailureKind::Refused))?;
    let challenges = questions(&mut order).await?;
    if !challenges.is_empty() {
        pend(challenges);
        tokio::time::sleep(settle).await;
        be_asked(&mut order).await?;
    }
    let ready = order.poll_ready(&POLL).await;
    let ready =
        ready.map_err(|error| Failed::of("the names were not confirmed", &error, FailureKind::Challenge))?;
    if ready != OrderStatus::Ready {
        let why = why_invalid(&mut order).await;
        return Err(Failed::new(FailureKind::Challenge, format!("the names were not confirmed: {why}")));
    }
    let refused = |error: Error| Failed::of("the certificate was not made", &error, FailureKind::Refused);
    let key = order.finalize().await.map_err(refused)?;
    let chain = order.poll_certificate(&POLL).await.map_err(refused)?;
    Ok(format!("{}\n{}\n", chain.trim_end(), key.trim_end()))
}

/// What the authority is going to ask.
async fn questions(order: &mut Order) -> Result<Vec<Challenge>, Failed> {
    let refused = |error: Error| Failed::of("the order cannot be met", &error, FailureKind::Refused);
    let mut challenges = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.map_err(refused)?;
        match authorization.status {
            AuthorizationStatus::Pending => {}
            // It has looked a while ago.
            AuthorizationStatus::Valid => continue,
            status => {
                let why = format!("the authority says that a name is {status:?}");
                return Err(Failed::new(FailureKind::Refused, why));
            }
        }
        let Identifier::Dns(host) = authorization.identifier().identifier.clone() else {
            return Err(Failed::new(
                FailureKind::Refused,
                "the authority asks for something else than a name",
            ));
        };
        let Some(handle) = authorization.challenge(ChallengeType::Http01) else {
            let why = format!("the authority does not offer HTTP-01 for {host}");
            return Err(Failed::new(FailureKind::Refused, why));
        };
        let answer = handle.key_authorization().as_str().to_owned();
        let challenge = Challenge { host: host.to_ascii_lowercase(), token: handle.token.clone(), answer };
        if !challenge.is_valid() {
            return Err(Failed::new(FailureKind::Refused, "the authority asks for what is no token"));
        }
        challenges.push(challenge);
    }
    Ok(challenges)
}

/// Tells the authority to ask.
async fn be_asked(order: &mut Order) -> Result<(), Failed> {
    let refused = |error: Error| Failed::of("the names were not confirmed", &error, FailureKind::Challenge);
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.map_err(refused)?;
        if authorization.status == AuthorizationStatus::Pending
            && let Some(mut handle) = authorization.challenge(ChallengeType::Http01)
        {
            handle.set_ready().await.map_err(refused)?;
        }
    }
    Ok(())
}

/// What the authority says of the names that it did not confirm.
async fn why_invalid(order: &mut Order) -> String {
    let mut whys = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let Ok(mut authorization) = authorization else { break };
        let Ok(state) = authorization.refresh().await else { break };
        let of = state.identifier().to_string();
        let problems = state.challenges.iter().filter_map(|challenge| challenge.error.as_ref());
        whys.extend(problems.map(|problem| format!("{of}: {problem}")));
    }
    if whys.is_empty() { "the authority does not say why".to_owned() } else { whys.join("; ") }
}
