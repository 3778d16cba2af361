//! Whether pods are given the time that their processes take to stop, and a rollout drains one gateway at a time.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use toml::Table;

use super::references::find;
use super::render::Object;

/// What a gateway takes beyond its delay and window: the last writes (2 s) and the last requests (5 s).
const GATEWAY_ENDS: u64 = 7;
/// What one that is paced takes beyond its wait: the last report of that, and of its end.
const LAST_REPORTS: u64 = 5;
/// How long an operator may take to give its lease up, in seconds.
const OPERATOR_ENDS: u64 = 10;
/// How long an outbox publisher may take to do the same (2 s) and to end.
const OUTBOX_ENDS: u64 = 10;
/// What a Deployment is.
const COMPONENT: &str = "/metadata/labels/app.kubernetes.io~1component";

/// Every Deployment of these objects.
pub(super) fn check(objects: &[Object]) -> Result<()> {
    objects.iter().filter(|object| object.kind() == "Deployment").try_for_each(|deployment| {
        let of = || -> Result<()> {
            let spec = &deployment.value["spec"];
            let [ready, progress, grace] = [
                "/minReadySeconds",
                "/progressDeadlineSeconds",
                "/template/spec/terminationGracePeriodSeconds",
            ]
            .map(|place| spec.pointer(place).and_then(Value::as_u64));
            let ready = ready.context("no minReadySeconds")?;
            let grace = grace.context("no terminationGracePeriodSeconds")?;
            ensure!(progress > Some(ready), "it would be given up before anything is available");
            let slept = spec.pointer("/template/spec/containers/0/lifecycle/preStop/sleep/seconds");
            match slept.and_then(Value::as_u64) {
                Some(slept) => ensure!(grace > slept + 30, "{grace} s are too few after {slept} s of sleep"),
                // Nobody asks an operator for anything: it gives its lease up, and that is that.
                None if deployment.text_at(COMPONENT) == "operator" => {
                    ensure!(
                        grace >= OPERATOR_ENDS,
                        "it is killed after {grace} s, before its lease is given up"
                    );
                }
                None if deployment.text_at(COMPONENT) == "outbox" => {
                    ensure!(
                        grace >= OUTBOX_ENDS,
                        "it is killed after {grace} s, and nobody drains until its lease is over"
                    );
                }
                None => gateway(deployment, objects, ready, grace)?,
            }
            Ok(())
        };
        of().with_context(|| deployment.name())
    })
}

/// What else doesn't sleep is a gateway, which has its delay in its configuration.
fn gateway(deployment: &Object, objects: &[Object], ready: u64, grace: u64) -> Result<()> {
    let map = find(objects, "ConfigMap", deployment.text_at("/metadata/name"))?;
    let configured: Table = map.value["data"]["foghorn.toml"].as_str().unwrap_or_default().parse()?;
    let seconds = |key: &str| -> Result<u64> {
        let value = configured.get("gateway").and_then(|gateway| gateway.get(key)?.as_str());
        let value = value.with_context(|| format!("gateway.{key} is not set"))?;
        value.trim_end_matches('s').parse().with_context(|| format!("gateway.{key} = {value:?}"))
    };
    let drain = seconds("drain_delay")? + seconds("drain_window")?;
    // Only where an operator paces it.
    let is_paced = objects.iter().any(|object| object.kind() == "GatewayFleet");
    let waits = if is_paced { seconds("drain_wait")? + LAST_REPORTS } else { 0 };
    ensure!(
        grace >= waits + drain + GATEWAY_ENDS,
        "it is killed after {grace} s, may wait for {waits} s and drains for {drain} s"
    );
    ensure!(ready >= drain, "after {ready} s the next gateway drains, and this one takes {drain} s");
    Ok(())
}
