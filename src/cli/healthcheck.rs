//! `nightshift healthcheck`: what a container's health check runs, where there is no curl.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use serde_json::Value;

use crate::config;

/// Longer than `/readyz` gives the database.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) fn run(settings: &config::Healthcheck) -> Result<(), String> {
    let url = format!("http://{}/readyz", reachable(settings.listen));
    super::block_on(async move {
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().map_err(|e| e.to_string())?;
        let answer = client.get(&url).send().await.map_err(|e| format!("the service does not answer: {e}"))?;
        let status = answer.status();
        let body: Value = answer.json().await.unwrap_or_default();
        if status.is_success() {
            println!("ready");
            return Ok(());
        }
        Err(format!("{url}: {status}: {}", body["detail"].as_str().unwrap_or("no reason was given")))
    })
}

/// A service that listens on every address listens on this machine's own.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}
