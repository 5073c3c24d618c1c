"""From params.yaml, and what the hospitals say of themselves, to the plan that they are asked to agree to."""

from collections.abc import Mapping

from primia.config import Params
from primia.errors import ConfigError
from primia.federation.messages import Description
from primia.federation.plan import UNNAMED, Hospital, Plan, PrivacyPlan, StudentPlan
from primia.privacy.accounting import Release, noise_multiplier_for
from primia.secagg.threshold import threshold


def privacy_plan(params: Params) -> PrivacyPlan | None:
    """Calibrate the noise so that statistics and training spend the target, and all validations together, too.

    None without differential privacy.
    """
    privacy = params.privacy
    if not privacy.enabled:
        return None
    return PrivacyPlan(
        trust=privacy.trust,
        curious=privacy.curious,
        target_epsilon=privacy.target_epsilon,
        delta=privacy.delta,
        clip_norm=privacy.clip_norm,
        noise_multiplier=noise_multiplier_for(
            target_epsilon=privacy.target_epsilon,
            delta=privacy.delta,
            sampling_rate=privacy.sampling_rate,
            steps=params.federation.rounds * privacy.local_steps,
            other=[Release(sampling_rate=1.0, noise_multiplier=privacy.statistics_noise, steps=1)],
            discrete=privacy.trust == "distributed",
        ),
        sampling_rate=privacy.sampling_rate,
        site_population=privacy.site_population,
        expected_batch=privacy.sampling_rate * privacy.site_population,
        views=privacy.views,
        local_steps=privacy.local_steps,
        learning_rate=privacy.learning_rate,
        statistics_noise=privacy.statistics_noise,
        validation_noise=noise_multiplier_for(
            target_epsilon=privacy.target_epsilon,
            delta=privacy.delta,
            sampling_rate=1.0,
            steps=params.federation.rounds,
        ),
    )


def described_hospital(description: Description) -> Hospital:
    """The roster's entry of a site that described itself."""
    return Hospital(identity=description.identity.hex(), data=description.data)


def draft_plan(
    params: Params,
    descriptions: Mapping[str, Description],
    *,
    privacy: PrivacyPlan | None,
    known: Mapping[str, Hospital] | None = None,
    student: StudentPlan | None = None,
) -> Plan:
    """The plan of `params`, still without a name of its run.

    Args:
        params: all of params.yaml.
        descriptions: of the sites that described themselves.
        privacy: see `privacy_plan`.
        known: hospitals of an interrupted run of this plan that are absent now.
        student: what is taught, if the run does not train on labels.

    Raises:
        ConfigError: a site answers under another name or was prepared with other classes or pixels.
    """
    for name, described in descriptions.items():
        depth = None if params.preprocess.volume is None else params.preprocess.volume.depth
        said = (described.name, described.classes, described.pixels, described.depth)
        if said != (name, params.ingest.classes, params.preprocess.pixels, depth):
            raise ConfigError(
                f"Hospital {name} holds {described.pixels}-pixel images of {', '.join(described.classes)} as "
                f"{described.name}, which is not what params.yaml says; run the preprocess stage again."
            )
    hospitals = {name: described_hospital(described) for name, described in descriptions.items()} | dict(known or {})
    return Plan(
        run=UNNAMED,
        hospitals={name: hospitals[name] for name in params.preprocess.hospitals if name in hospitals},
        classes=params.ingest.classes,
        pixels=params.preprocess.pixels,
        volume=params.preprocess.volume,
        synthetic=params.ingest.source == "phantom",
        model=params.model,
        threshold=threshold(len(hospitals)),
        rounds=params.federation.rounds,
        average=params.federation.average,
        release=params.federation.release,
        server=params.federation.server,
        patience=params.federation.patience,
        rollback_margin=params.federation.rollback_margin,
        training=params.training,
        secure_aggregation=params.secure_aggregation,
        weights="images" if privacy is None else "equal",
        privacy=privacy,
        student=student,
    )
