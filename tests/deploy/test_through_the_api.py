"""The networks of deploy/aws, made by the calls that CloudFormation would make, against moto's server: what the templates say is what the API takes,
and what it tells afterwards. moto's own CloudFormation knows neither pinned addresses nor attachments."""

import os
import pathlib
import socket
import subprocess
import sys
import time

import boto3
import pytest
from cfnlint.decode.cfn_yaml import load

AWS = pathlib.Path(__file__).resolve().parents[2] / "deploy/aws"
REGION = "eu-west-1"


class Stack:
    """One template; its resources are made in the order in which they need each other."""

    def __init__(self, client, name, **parameters):
        self.client, self.template = client, load(str(AWS / f"{name}.yaml"))
        defaults = {key: str(it["Default"]) for key, it in self.template["Parameters"].items() if "Default" in it}
        self.values = {**defaults, **parameters, "AWS::Region": REGION, "AWS::Partition": "aws", "AWS::AccountId": "123456789012"}
        self.attributes = {}
        missing = set(self.template["Parameters"]) - set(self.values)
        assert not missing, missing

    def resolve(self, it):
        if isinstance(it, list):
            return [self.resolve(part) for part in it]
        if not isinstance(it, dict):
            return it
        if len(it) == 1:
            (function, argument), = it.items()
            if function == "Ref":
                return self.values[argument] if argument in self.values else self.make(argument)
            if function == "Fn::GetAtt":
                name, attribute = argument if isinstance(argument, list) else argument.split(".", 1)
                self.make(name)
                return self.attributes[name, attribute]
            if function == "Fn::GetAZs":
                return [zone["ZoneName"] for zone in self.client("ec2").describe_availability_zones()["AvailabilityZones"]]
            if function == "Fn::Select":
                return self.resolve(argument[1])[int(argument[0])]
            if function == "Fn::Split":
                return self.resolve(argument[1]).split(argument[0])
            if function == "Fn::Join":
                return argument[0].join(self.resolve(argument[1]))
            if function == "Fn::Sub":
                text = argument
                for name in {*self.values, *self.template["Resources"]}:
                    if "${" + name + "}" in text:
                        text = text.replace("${" + name + "}", str(self.resolve({"Ref": name})))
                return text
        return {key: self.resolve(value) for key, value in it.items()}

    def make(self, name):
        if name in self.values:
            return self.values[name]
        resource = self.template["Resources"][name]
        properties = self.resolve(resource.get("Properties", {}))
        self.values[name] = getattr(self, resource["Type"].split("::", 1)[1].replace("::", "_"))(name, properties)
        return self.values[name]

    def EC2_VPC(self, name, it):
        ec2 = self.client("ec2")
        vpc = ec2.create_vpc(CidrBlock=it["CidrBlock"])["Vpc"]["VpcId"]
        ec2.modify_vpc_attribute(VpcId=vpc, EnableDnsHostnames={"Value": it["EnableDnsHostnames"]})
        return vpc

    def EC2_Subnet(self, name, it):
        return self.client("ec2").create_subnet(VpcId=it["VpcId"], CidrBlock=it["CidrBlock"], AvailabilityZone=it["AvailabilityZone"])["Subnet"]["SubnetId"]

    def EC2_TransitGatewayAttachment(self, name, it):
        return self.client("ec2").create_transit_gateway_vpc_attachment(TransitGatewayId=it["TransitGatewayId"], VpcId=it["VpcId"], SubnetIds=it["SubnetIds"])["TransitGatewayVpcAttachment"]["TransitGatewayAttachmentId"]

    def EC2_RouteTable(self, name, it):
        return self.client("ec2").create_route_table(VpcId=it["VpcId"])["RouteTable"]["RouteTableId"]

    def EC2_Route(self, name, it):
        self.client("ec2").create_route(**it)
        return name

    def EC2_SubnetRouteTableAssociation(self, name, it):
        return self.client("ec2").associate_route_table(**it)["AssociationId"]

    def EC2_SecurityGroup(self, name, it):
        ec2 = self.client("ec2")
        group = ec2.create_security_group(GroupName=name, Description=it["GroupDescription"], VpcId=it["VpcId"])["GroupId"]
        default = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["IpPermissionsEgress"]
        ec2.revoke_security_group_egress(GroupId=group, IpPermissions=default)
        for key, call in (("SecurityGroupIngress", ec2.authorize_security_group_ingress), ("SecurityGroupEgress", ec2.authorize_security_group_egress)):
            for rule in it.get(key, []):
                permission = {"IpProtocol": rule["IpProtocol"], "FromPort": int(rule["FromPort"]), "ToPort": int(rule["ToPort"])}
                if "CidrIp" in rule:
                    permission["IpRanges"] = [{"CidrIp": rule["CidrIp"], "Description": rule["Description"]}]
                elif "SourceSecurityGroupId" in rule:
                    permission["UserIdGroupPairs"] = [{"GroupId": rule["SourceSecurityGroupId"], "Description": rule["Description"]}]
                else:
                    permission["PrefixListIds"] = [{"PrefixListId": rule["DestinationPrefixListId"], "Description": rule["Description"]}]
                call(GroupId=group, IpPermissions=[permission])
        return group

    def EC2_VPCEndpoint(self, name, it):
        endpoint = self.client("ec2").create_vpc_endpoint(**it)["VpcEndpoint"]
        return endpoint["VpcEndpointId"]

    def EC2_VPCEndpointService(self, name, it):
        return self.client("ec2").create_vpc_endpoint_service_configuration(**it)["ServiceConfiguration"]["ServiceId"]

    def EC2_VPCEndpointServicePermissions(self, name, it):
        self.client("ec2").modify_vpc_endpoint_service_permissions(ServiceId=it["ServiceId"], AddAllowedPrincipals=it["AllowedPrincipals"].split(","))
        return name

    def ElasticLoadBalancingV2_LoadBalancer(self, name, it):
        elb = self.client("elbv2")
        made = elb.create_load_balancer(**{key: it[key] for key in ("Name", "Type", "Scheme", "SubnetMappings", "SecurityGroups")})["LoadBalancers"][0]
        elb.modify_load_balancer_attributes(LoadBalancerArn=made["LoadBalancerArn"], Attributes=it["LoadBalancerAttributes"])
        return made["LoadBalancerArn"]

    def ElasticLoadBalancingV2_TargetGroup(self, name, it):
        elb, attributes = self.client("elbv2"), it.pop("TargetGroupAttributes")
        arn = elb.create_target_group(**it)["TargetGroups"][0]["TargetGroupArn"]
        elb.modify_target_group_attributes(TargetGroupArn=arn, Attributes=attributes)
        return arn

    def ElasticLoadBalancingV2_Listener(self, name, it):
        return self.client("elbv2").create_listener(**it)["Listeners"][0]["ListenerArn"]


@pytest.fixture
def client():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([pathlib.Path(sys.executable).with_name("moto_server"), "-H", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": REGION}
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            break
        except OSError:
            assert server.poll() is None
            time.sleep(0.05)
    yield lambda service: boto3.client(service, endpoint_url=f"http://127.0.0.1:{port}", **keys)
    server.terminate()
    server.wait(20)


NETWORK = ["Vpc", "SubnetA", "SubnetB", "Attachment", "Routes", "ToOnPrem", "RoutesA", "RoutesB", "BalancerGroup", "ProxyGroup", "EndpointGroup", "Balancer", "Targets", "Listener", "Service", "ServicePermissions", "EcrApi", "EcrImages", "Logs", "Secrets", "S3"]
CONSUMER = ["Vpc", "SubnetA", "SubnetB", "FunctionGroup", "EndpointGroup", "Endpoint"]


def test_the_small_network_and_two_large_ones_that_overlap(client):
    ec2, elb = client("ec2"), client("elbv2")
    gateway = ec2.create_transit_gateway()["TransitGateway"]["TransitGatewayId"]
    network = Stack(client, "network", TransitGatewayId=gateway, Consumers="arn:aws:iam::123456789012:root,arn:aws:iam::210987654321:root", S3PrefixList="pl-6da54004")
    for name in NETWORK:
        network.make(name)
    # Pinned addresses in two zones, and whoever comes is told by the PROXY protocol.
    balancer = elb.describe_load_balancers(LoadBalancerArns=[network.values["Balancer"]])["LoadBalancers"][0]
    assert (balancer["Type"], balancer["Scheme"], len(balancer["AvailabilityZones"])) == ("network", "internal", 2)
    attributes = {it["Key"]: it["Value"] for it in elb.describe_target_group_attributes(TargetGroupArn=network.values["Targets"])["Attributes"]}
    assert attributes["proxy_protocol_v2.enabled"] == "true" and attributes["preserve_client_ip.enabled"] == "false"
    check = elb.describe_target_groups(TargetGroupArns=[network.values["Targets"]])["TargetGroups"][0]
    assert (check["HealthCheckPath"], check["HealthCheckPort"], check["TargetType"]) == ("/readyz", "9901", "ip")
    # The only way out leads on-prem, and nothing may go elsewhere.
    routes = ec2.describe_route_tables(RouteTableIds=[network.values["Routes"]])["RouteTables"][0]
    assert {route["DestinationCidrBlock"] for route in routes["Routes"] if "DestinationCidrBlock" in route} == {"10.1.2.0/27", "10.9.0.0/16"} and len(routes["Associations"]) >= 2
    proxies = ec2.describe_security_groups(GroupIds=[network.values["ProxyGroup"]])["SecurityGroups"][0]
    outwards = {(range_["CidrIp"], rule["FromPort"]) for rule in proxies["IpPermissionsEgress"] for range_ in rule["IpRanges"]}
    assert outwards == {("10.9.0.0/16", 8443), ("10.1.2.0/27", 443), ("10.1.2.0/27", 2049)}
    service = ec2.describe_vpc_endpoint_service_configurations(ServiceIds=[network.values["Service"]])["ServiceConfigurations"][0]
    assert service["AcceptanceRequired"] and service["NetworkLoadBalancerArns"] == [network.values["Balancer"]]
    allowed = ec2.describe_vpc_endpoint_service_permissions(ServiceId=network.values["Service"])["AllowedPrincipals"]
    assert {it["Principal"] for it in allowed} == {"arn:aws:iam::123456789012:root", "arn:aws:iam::210987654321:root"}
    # A second large network with the same addresses attaches like the first.
    consumers = [Stack(client, "consumer", Name=f"functions-{number}", ServiceName=service["ServiceName"]) for number in (1, 2)]
    for consumer in consumers:
        for name in CONSUMER:
            consumer.make(name)
    vpcs = ec2.describe_vpcs(VpcIds=[it.values["Vpc"] for it in consumers])["Vpcs"]
    assert [it["CidrBlock"] for it in vpcs] == ["100.64.0.0/16"] * 2
    endpoints = ec2.describe_vpc_endpoints(VpcEndpointIds=[it.values["Endpoint"] for it in consumers])["VpcEndpoints"]
    assert {it["ServiceName"] for it in endpoints} == {service["ServiceName"]} and {it["VpcId"] for it in endpoints} == {it["VpcId"] for it in vpcs}


def test_the_addresses_of_a_subnet_are_enough():
    """AWS keeps five of a /28; the balancer, AWS's interfaces, the rules and the proxies while they are replaced need the rest."""
    template, fleet = load(str(AWS / "network.yaml")), load(str(AWS / "fargate.yaml"))
    interfaces = [name for name, it in template["Resources"].items() if it["Type"] == "AWS::EC2::VPCEndpoint" and it["Properties"]["VpcEndpointType"] == "Interface"]
    mounts = [name for name, it in fleet["Resources"].items() if it["Type"] == "AWS::EFS::MountTarget"]
    most = int(fleet["Parameters"]["MaxTasks"]["Default"])
    while_replaced = 2 * most // 2
    assert template["Parameters"]["SubnetCidrA"]["Default"].endswith("/28") and len(mounts) == 2
    assert 5 + 1 + len(interfaces) + len(mounts) // 2 + while_replaced <= 16


def test_every_interface_of_both_variants_is_made_by_the_network():
    """What one template gives out is what the others ask for."""
    outputs = set(load(str(AWS / "network.yaml"))["Outputs"])
    for name, own in (("fargate", {"Image", "AgentImage"}), ("ec2", {"ImageId", "InstanceType", "RulesBucket", "MinSize", "MaxSize", "MoreAddresses"})):
        asked = set(load(str(AWS / f"{name}.yaml"))["Parameters"])
        others = asked - outputs - own - {"SecretArns", "AlarmTopic", "MinTasks", "MaxTasks", "LogDays"}
        assert not others, (name, others)


assert os.environ.get("AWS_PROFILE") is None, "this test speaks to no account"
