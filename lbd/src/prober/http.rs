//! The HTTP check, with or without TLS.

use std::io;

use lbd_core::check::http::{Answer, request};
use lbd_core::check::{Pattern, Stage, Verdict};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::stream::{self, Destination};
use super::tls::Client;

/// How much is read at once.
const READ_BYTES: usize = 4096;

/// What is asked, and what is expected.
#[derive(Debug)]
pub(super) struct Http {
    request: Vec<u8>,
    expect: Vec<(u16, u16)>,
    pattern: Option<Pattern>,
    tls: Option<Client>,
}

impl Http {
    pub(super) fn new(
        path: &str,
        host: &str,
        expect: &[(u16, u16)],
        body: Option<&str>,
        tls: Option<Client>,
    ) -> Self {
        let pattern = body.map(Pattern::new);
        Self { request: request(path, host), expect: expect.to_vec(), pattern, tls }
    }

    pub(super) async fn run(&self, to: Destination, stage: &mut Stage) -> Verdict {
        let stream = stream::connect(to).await?;
        match &self.tls {
            None => self.ask(stream, stage).await,
            Some(client) => {
                let stream = client.handshake(stream, stage).await?;
                self.ask(stream, stage).await
            }
        }
    }

    async fn ask(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin, stage: &mut Stage) -> Verdict {
        *stage = Stage::Answer;
        // One that refuses early may have answered before it closed: what it said counts, not that it did not listen.
        let sent = send(&mut stream, &self.request).await;
        let mut answer = Answer::new(&self.expect, self.pattern.as_ref());
        let mut bytes = vec![0; READ_BYTES];
        loop {
            match stream.read(&mut bytes).await {
                Ok(0) => {
                    return match sent {
                        Err(error) if *stage == Stage::Answer => Err(stream::failure(&error, *stage)),
                        _ => answer.end(),
                    };
                }
                Ok(count) => {
                    *stage = Stage::Rest;
                    if let Some(verdict) = answer.push(&bytes[..count]) {
                        return verdict;
                    }
                }
                // TLS whose end is not announced, as is common.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return answer.end(),
                Err(error) => return Err(stream::failure(&error, *stage)),
            }
        }
    }
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), request: &[u8]) -> io::Result<()> {
    stream.write_all(request).await?;
    stream.flush().await
}
