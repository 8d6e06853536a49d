//! `/why`: the question, and who answers it.

use std::net::SocketAddr;

use proxy_core::health::EndpointReport;

use super::connections::decode;
use super::source::Source;
use crate::explain::Process;
use crate::explain::why::{self, Why};

/// What is asked.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Question {
    address: SocketAddr,
    process: Option<u32>,
}

impl Question {
    /// Reads `address=IP:PORT&process=PID`.
    pub(super) fn parse(query: &str) -> Result<Self, String> {
        let (mut address, mut process) = (None, None);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decode(value).ok_or_else(|| format!("'{value}' is not percent-encoded UTF-8"))?;
            match key {
                "address" => {
                    let parsed = value.parse();
                    address = Some(parsed.map_err(|_| format!("'{value}' is no IP address with a port"))?);
                }
                "process" => {
                    let parsed = value.parse();
                    process = Some(parsed.map_err(|_| format!("'{value}' is no process id"))?);
                }
                _ => return Err(format!("unknown parameter '{key}'; known are address and process")),
            }
        }
        let address = address.ok_or("address=IP:PORT is missing")?;
        Ok(Self { address, process })
    }

    /// Answers; blocks for some reads of `/proc`.
    pub(super) fn answer(&self, source: &impl Source, health: &[EndpointReport]) -> Result<Why, String> {
        let snapshot = source.snapshot();
        let status = source.status();
        let pods = &status.pods.chosen;
        let look = |pid| {
            Process::look(pid, &snapshot.intercept, pods, |cookie| source.is_served(cookie))
                .map_err(|error| format!("cannot look at process {pid}: {error}"))
        };
        let process = self.process.map(look).transpose()?;
        Ok(why::why(&snapshot, health, &status.node_listeners, self.address, process))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_read_strictly() {
        let address = "[fd00::1]:80".parse().unwrap();
        assert_eq!(Question::parse("address=[fd00::1]:80"), Ok(Question { address, process: None }));
        assert_eq!(
            Question::parse("address=%5Bfd00%3A%3A1%5D%3A80&process=7"),
            Ok(Question { address, process: Some(7) })
        );
        for query in
            ["", "process=7", "address=10.0.0.1", "address=10.0.0.1:80&process=x", "adress=1.1.1.1:1"]
        {
            assert!(Question::parse(query).is_err(), "{query}");
        }
    }
}
