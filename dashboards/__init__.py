"""The Grafana boards, written in Python: `make dashboards` writes json/, and Grafana reads that and provisioning/."""
