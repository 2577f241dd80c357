//! Which targets new connections of services that the kernel forwards get, while one starts slowly and with zones: by the
//! connections that a client makes.

use std::time::Duration;

use common::time::Instant;
use integration::lab::clock::{now, wait_until};
use integration::lab::probe::{ConnectProbe, ConnectReport, ConnectSettings};
use integration::lab::{Lab, Result};

use crate::kernel_support::{LIMIT, answerer, service, start, status, vips};

/// How long a target takes to get its whole share.
const SLOW_START: Duration = Duration::from_secs(10);

/// The part of the connections begun within a time that a target served.
fn part(report: &ConnectReport, target: &str, from: Instant, to: Instant) -> f64 {
    let served = |attempt: &&integration::lab::probe::Attempt| {
        attempt.target.is_some_and(|index| report.targets[usize::from(index)] == target)
    };
    let within: Vec<_> =
        report.attempts.iter().filter(|attempt| from <= attempt.start && attempt.start < to).collect();
    assert!(within.len() > 200, "{} connections", within.len());
    within.iter().filter(|attempt| served(attempt)).count() as f64 / within.len() as f64
}

#[test]
fn a_target_that_comes_back_gets_its_share_little_by_little() -> Result<()> {
    let lab = Lab::builder("kernel-slow").targets(2).build()?;
    let slow = format!("slow_start = \"{}s\"", SLOW_START.as_secs());
    start(&lab, &service(&lab, "web", "mode = \"nat\"", &["80"], 80, &slow))?;
    let share = || {
        let status = status(&lab).unwrap_or_default();
        let groups = status["target_groups"].as_array().cloned().unwrap_or_default();
        let group = groups.iter().find(|group| group["name"] == "web4").cloned().unwrap_or_default();
        group["targets"][0]["share"].as_u64()
    };
    wait_until("answers", LIMIT, || answerer(&lab, vips()[0]).is_some())?;
    let whole = share();
    let set = |state: &str| -> Result<()> {
        let path = "/v1/target-groups/web4/targets/t1";
        let answer = lab.a().send("lbd", "PATCH", path, &format!("{{\"state\":\"{state}\"}}"))?;
        assert_eq!(answer.status, 200, "{}", answer.body);
        Ok(())
    };
    set("maint")?;
    let probe = ConnectProbe::start(lab.client(), ConnectSettings::http((vips()[0], 80).into()))?;
    probe.wait_successes(300, LIMIT)?;
    let out = now();
    probe.wait_successes(300, LIMIT)?;
    let begin = now();
    set("ready")?;
    wait_until("the whole share", LIMIT, || share() == whole)?;
    let end = now();
    probe.wait_successes(600, LIMIT)?;
    let report = probe.stop()?;
    assert_eq!(report.failed(), 0, "{}", report.summary());

    let quarter = |number: u32| begin + SLOW_START / 4 * number;
    let mut parts = vec![part(&report, "t1", out, begin)];
    parts.extend((0..4).map(|number| part(&report, "t1", quarter(number), quarter(number + 1))));
    parts.push(part(&report, "t1", end, now()));
    // Of s to s + 1 it is an eighth in the first quarter, nearly a half in the last.
    assert!(parts[0] == 0.0 && parts[1] < 0.2, "{parts:?}");
    assert!(parts[1] < parts[2] && parts[2] < parts[4], "{parts:?}");
    assert!(parts[4] > 0.35 && (0.4..0.6).contains(&parts[5]), "{parts:?}");
    lab.finish()
}

#[test]
fn targets_of_the_node_s_own_zone_come_first() -> Result<()> {
    let lab = Lab::builder("kernel-zones").targets(2).build()?;
    let health =
        "health = { http = \"/health\", interval = \"100ms\", timeout = \"90ms\" }\ncross_zone = false";
    let text = service(&lab, "web", "mode = \"nat\"", &["80"], 80, health);
    let zoned = |text: &str, id: &str, zone: &str| {
        text.replace(&format!("id = \"{id}\","), &format!("id = \"{id}\", zone = \"{zone}\","))
    };
    let text = zoned(&zoned(&text, "t1", "east"), "t2", "west");
    start(&lab, &format!("[[node]]\nname = \"a\"\nzone = \"east\"\n{text}"))?;
    // Every one of these is from another port, which a hash alone would spread.
    let only = |target: &str| -> Result<()> {
        for vip in vips() {
            let all = || (0..24).all(|_| answerer(&lab, vip).is_some_and(|it| it == target));
            wait_until(&format!("all answers through {vip} to be from {target}"), LIMIT, all)?;
        }
        Ok(())
    };
    only("t1")?;
    // Those of another zone are better than none,
    lab.targets()[0].stop("nginx")?;
    only("t2")?;
    // and no longer than that.
    lab.targets()[0].start_http()?;
    only("t1")?;
    lab.finish()
}
