"""Builders of panels, links and boards, shared by the three boards."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Final
from urllib.parse import quote

from grafana_foundation_sdk.builders import common as c
from grafana_foundation_sdk.builders import dashboard as d
from grafana_foundation_sdk.builders import heatmap as h
from grafana_foundation_sdk.builders import prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common, dashboard, heatmap
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from dashboards.queries import SERVICE, label
from nodespan.semconv import NAMES, NODE, NODE_DURATION, OPERATION_DURATION, REQUEST_MODEL, WORKFLOW_NAME

Panel = stat.Panel | timeseries.Panel | h.Panel | table.Panel
Query = prometheus.Dataquery
Limits = tuple[str, Sequence[tuple[float, str]]]

PROMETHEUS: Final = common.DataSourceRef(type_val="prometheus", uid="prometheus")
BOARDS: Final = {
    "nodespan-workflows": "Workflows",
    "nodespan-models": "Models",
    "nodespan-telemetry": "Telemetry",
}
_NODES: Final = f"{NAMES[NODE_DURATION].prometheus_name}_count"
_CALLS: Final = f"{NAMES[OPERATION_DURATION].prometheus_name}_count"
# A variable's title, the series it is read from, and the label.
VARIABLES: Final = {
    "service": ("Service", '{__name__=~"(gen_ai|nodespan)_.+"}', "service_name"),
    "workflow": ("Workflow", f"{_NODES}{{{SERVICE}}}", label(WORKFLOW_NAME)),
    "node": ("Node", f'{_NODES}{{{SERVICE}, {label(WORKFLOW_NAME)}=~"$workflow"}}', label(NODE)),
    "model": ("Model", f"{_CALLS}{{{SERVICE}}}", label(REQUEST_MODEL)),
}
JAEGER: Final = "http://localhost:16686"
WIDTH: Final = 24  # of Grafana's grid
SECONDS, COUNT, SHARE, BYTES = "s", "short", "percentunit", "bytes"
PER_S, TOKENS_PER_S = "cps", "suffix: tokens/s"


def bad_above(warning: float, bad: float) -> Limits:
    """Thresholds where less is better."""
    return "green", ((warning, "orange"), (bad, "red"))


def bad_from(bad: float) -> Limits:
    """A threshold from which values are bad."""
    return "green", ((bad, "red"),)


def bad_below(good: float) -> Limits:
    """Thresholds where more is better."""
    return "red", ((good, "green"),)


def query(expression: str, legend: str = "") -> Query:
    """A line of a graph."""
    return Query().expr(expression).legend_format(legend).range()


def graph(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    limits: Limits | None = None,
    links: Sequence[DataLink] = (),
    exemplars: bool = False,
    bars: bool = False,
) -> timeseries.Panel:
    """Lines over time, or bars for counts. Exemplars are points that open the trace of one call."""
    panel = timeseries.Panel()
    _described(panel, title, description, unit, limits, links)
    _asked(panel, [each.exemplar(exemplars) for each in queries])
    panel.min(0).legend(
        c.VizLegendOptions()
        .show_legend(True)
        .calcs(["lastNotNull", "max"])
        .as_table(True)
        .placement(common.LegendPlacement.BOTTOM)
        .display_mode(common.LegendDisplayMode.TABLE)
    )
    panel.tooltip(c.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING))
    panel.color_scheme(d.FieldColor().mode(dashboard.FieldColorModeId.PALETTE_CLASSIC_BY_NAME))
    if bars:
        panel.draw_style(common.GraphDrawStyle.BARS).fill_opacity(60)
    else:
        # A workstation's metrics have gaps; points show single values between them.
        panel.line_width(2).fill_opacity(8).show_points(common.VisibilityMode.AUTO)
    if limits:
        panel.thresholds_style(c.GraphThresholdsStyleConfig().mode(common.GraphThresholdsStyleMode.DASHED))
    return panel


def number(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    limits: Limits | None = None,
    links: Sequence[DataLink] = (),
    words: Mapping[int, str] | None = None,
) -> stat.Panel:
    """The value now, or of the whole range. ``words`` are shown for values."""
    panel = stat.Panel()
    _described(panel, title, description, unit, limits, links)
    _asked(panel, [each.instant() for each in queries])
    panel.reduce_options(c.ReduceDataOptions().calcs(["lastNotNull"])).graph_mode(common.BigValueGraphMode.NONE)
    if limits:
        panel.color_mode(common.BigValueColorMode.BACKGROUND)
        panel.color_scheme(d.FieldColor().mode(dashboard.FieldColorModeId.THRESHOLDS))
    else:
        panel.color_mode(common.BigValueColorMode.NONE)
    if words:
        options = {str(value): dashboard.ValueMappingResult(text=text) for value, text in words.items()}
        panel.mappings([dashboard.ValueMap(options=options)])
    return panel


def spread(title: str, description: str, unit: str, buckets: Query, links: Sequence[DataLink] = ()) -> h.Panel:
    """A histogram over time."""
    panel = h.Panel()
    _described(panel, title, description, unit, None, links)
    _asked(panel, [buckets.format(PromQueryFormat.HEATMAP).exemplar(True)])
    panel.calculate(False).y_axis(h.YAxisConfig().unit(unit)).cell_gap(1)
    panel.color(
        h.HeatmapColorOptions()
        .mode(heatmap.HeatmapColorMode.SCHEME)
        .scheme("Oranges")
        .steps(64)
        .fill("dark-orange")
        .exponent(0.5)
    )
    panel.tooltip(h.HeatmapTooltip().mode(common.TooltipDisplayMode.SINGLE).y_histogram(True))
    return panel.exemplars_color("rgba(31, 120, 193, 0.9)")


def ranking(
    title: str,
    description: str,
    rows: str,
    columns: Mapping[str, tuple[str, Query]],
    *,
    sort_by: str,
    links: Sequence[DataLink] = (),
) -> table.Panel:
    """A table with a row per value of the attribute ``rows``, and a unit and a query per heading of ``columns``."""
    panel = table.Panel()
    _described(panel, title, description, COUNT, None, links)
    _asked(panel, [each.instant().format(PromQueryFormat.TABLE) for _, each in columns.values()])
    headings = {f"Value #{ref_id(place)}": heading for place, heading in enumerate(columns)}
    panel.with_transformation(dashboard.DataTransformerConfig(id_val="merge", options={}))
    panel.with_transformation(
        dashboard.DataTransformerConfig(
            id_val="organize",
            options={"excludeByName": {"Time": True}, "renameByName": {label(rows): "Name", **headings}},
        )
    )
    for heading, (unit, _) in columns.items():
        panel.override_by_name(heading, [dashboard.DynamicConfigValue(id_val="unit", value=unit)])
    return panel.sort_by([c.TableSortByFieldState().display_name(sort_by).desc(True)])


def ref_id(place: int) -> str:
    """Grafana's name of the query at this place of a panel."""
    return chr(ord("A") + place)


def _asked(panel: Panel, queries: Iterable[Query]) -> None:
    panel.targets([each.ref_id(ref_id(place)) for place, each in enumerate(queries)])


def _described(
    panel: Panel, title: str, description: str, unit: str, limits: Limits | None, links: Sequence[DataLink]
) -> None:
    panel.title(title).description(description).datasource(PROMETHEUS).unit(unit).data_links(list(links))
    base, steps = limits or ("green", ())
    panel.thresholds(
        d.ThresholdsConfig()
        .mode(dashboard.ThresholdsMode.ABSOLUTE)
        .steps([dashboard.Threshold(color=base), *(dashboard.Threshold(color=color, value=at) for at, color in steps)])
    )


class DataLink(Builder[dict[str, object]]):
    """An entry in the menu of a value. The SDK has only the links of a board, with seven settings more."""

    def __init__(self, title: str, url: str, *, new_tab: bool) -> None:
        self._link: dict[str, object] = {"title": title, "url": url, "targetBlank": new_tab}

    def build(self) -> dict[str, object]:
        """The link as JSON of the board."""
        return self._link


def traces(title: str, tags: Mapping[str, str] | None = None) -> DataLink:
    """To Jaeger's search, over the board's time: the service's traces that have all these attributes."""
    # Grafana substitutes and encodes its variables, so they are not encoded here.
    sought = "&tags=" + quote(json.dumps(tags, separators=(",", ":")), safe="${}:,.") if tags else ""
    time = "start=${__from}000&end=${__to}000&lookback=custom"
    return DataLink(title, f"${{jaeger}}/search?service=${{service}}{sought}&{time}", new_tab=True)


def board_link(title: str, uid: str, **chosen: str) -> DataLink:
    """To a board, with the same time and filters except those named here."""
    kept = [f"${{{name}:queryparam}}" for name in VARIABLES if name not in chosen]
    given = [f"var-{name}={value}" for name, value in chosen.items()]
    return DataLink(title, f"/d/{uid}?{'&'.join([*kept, *given])}&${{__url_time_range}}", new_tab=False)


def value_of(attribute: str) -> str:
    """The value that this attribute has on the line that was clicked."""
    return f"${{__field.labels.{label(attribute)}}}"


def board(uid: str, purpose: str, shows: Sequence[str], rows: Sequence[tuple[int, Sequence[Panel]]]) -> d.Dashboard:
    """A board of rows, each with its height and the panels that share its width.

    The variables that it does not show are there unseen, to be carried along to the next board.
    """
    made = d.Dashboard(f"nodespan / {BOARDS[uid]}").uid(uid).description(purpose).tags(["nodespan"]).readonly()
    made.time("now-1h", "now").refresh("30s").timezone("browser").tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
    made.variables([*(_variable(name, hidden=name not in shows) for name in VARIABLES), _jaeger()])
    made.links([_way_to(other) for other in BOARDS if other != uid] + [_way_to_jaeger()])
    top = number = 0
    for height, panels in rows:
        width = WIDTH // len(panels)
        for column, panel in enumerate(panels):
            number += 1
            place = dashboard.GridPos(h=height, w=width, x=column * width, y=top)
            made.with_panel(panel.id(number).grid_pos(place))
        top += height
    return made


def _variable(name: str, *, hidden: bool) -> d.QueryVariable:
    title, among, wanted = VARIABLES[name]
    expression = f"label_values({among}, {wanted})"
    variable = d.QueryVariable(name).label(title).datasource(PROMETHEUS).definition(expression)
    variable.query({"query": expression, "refId": f"variable-{name}"})
    variable.refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(dashboard.VariableSort.ALPHABETICAL_ASC)
    if name != "service":  # Jaeger searches one service, so one is selected
        everything = dashboard.VariableOption(text="All", value="$__all")
        variable.multi(True).include_all(True).all_value(".*").current(everything)
    return variable.hide(dashboard.VariableHide.HIDE_VARIABLE if hidden else dashboard.VariableHide.DONT_HIDE)


def _jaeger() -> d.ConstantVariable:
    return d.ConstantVariable("jaeger").description("Where a browser finds Jaeger.").value(JAEGER)


class _Way(d.DashboardLink):
    """A visible link; the SDK puts each into the menu of controls."""

    def build(self) -> dashboard.DashboardLink:
        link = super().build()
        link.placement = None
        return link


def _way_to(uid: str) -> d.DashboardLink:
    link = _Way(BOARDS[uid]).type(dashboard.DashboardLinkType.LINK).url(f"/d/{uid}").icon("dashboard")
    return link.include_vars(True).keep_time(True)


def _way_to_jaeger() -> d.DashboardLink:
    link = _Way("Jaeger").type(dashboard.DashboardLinkType.LINK).url("${jaeger}/search?service=${service}")
    return link.icon("external link").target_blank(True)
